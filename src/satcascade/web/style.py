"""How the page looks: the system's fonts, and styles for the parts that are ours."""

from __future__ import annotations

import gradio as gr

from satcascade.web.painted_regions import BRUSHES

CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.sc-head h1 { font-size: 1.35rem; margin: 0; }
.sc-head p { margin: .15rem 0 0; opacity: .8; }
.sc-stage { display: flex; justify-content: center; }
.sc-stage img { width: 100%; max-width: 448px; aspect-ratio: var(--ratio); border-radius: var(--radius-lg); }
/* As large as there is room, whatever its shape. */
.sc-scene .sc-stage img { max-width: min(100%, calc(80vh * var(--ratio))); }
.sc-empty { align-items: center; max-width: 448px; margin: 0 auto; min-height: 220px; padding: 1rem;
  border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg);
  text-align: center; }
.sc-empty p { opacity: .8; }
.sc-status { min-height: 1.6rem; display: flex; flex-direction: column; gap: .25rem; }
.sc-status progress { width: 100%; height: .4rem; appearance: none; border: 0; border-radius: 1rem;
  overflow: hidden; background: var(--border-color-primary); }
.sc-status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.sc-status progress::-webkit-progress-value { background: var(--color-accent); }
.sc-status progress::-moz-progress-bar { background: var(--color-accent); }
.sc-failure { color: var(--error-text-color); background: var(--error-background-fill);
  border: 1px solid var(--error-border-color); border-radius: var(--radius-md); padding: .4rem .7rem; }
.sc-note { font-size: var(--text-sm); color: var(--block-info-text-color);
  margin: 0 !important; }
.sc-brush label > span::before { content: ""; display: inline-block; width: .8em; height: .8em;
  margin-right: .45em; border-radius: 3px; vertical-align: -.05em; background: var(--brush); }
.sc-seed { align-items: end; }
.sc-grid { overflow-x: auto; }
.sc-grid table { border-collapse: separate; border-spacing: 4px; margin: 0 auto; }
.sc-grid caption { caption-side: top; text-align: left; padding-bottom: .3rem; font-weight: 600; }
.sc-grid table, .sc-grid th, .sc-grid td { border: 0 !important; }
.sc-grid th { font-weight: 500; white-space: nowrap; padding: .2rem .4rem; text-align: center; }
.sc-grid td { padding: 0; }
.sc-grid img, .sc-blank { display: block; width: 200px; min-width: 120px; aspect-ratio: 1;
  border-radius: var(--radius-sm); }
.sc-blank { border: 1px dashed var(--border-color-primary); }
.sc-report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: white; }
@media (max-width: 500px) {
  /* All tabs in one row: Gradio hides those behind a button that have no room. */
  .tab-container button { padding-left: .4rem !important; padding-right: .4rem !important; }
  .sc-grid img, .sc-blank { width: 120px; }
}
"""


# The colour of a brush, beside the name of its caption's field.
CSS += "".join(f".sc-{name} {{ --brush: {colour}; }}\n" for name, colour in BRUSHES.items())


def theme() -> gr.themes.Base:
    """Gradio's own look with the fonts that the reader's system has, and small print dark enough to read."""
    grey = "*neutral_500"
    return gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="emerald"
    ).set(body_text_color_subdued=grey, block_info_text_color=grey, input_placeholder_color=grey)
