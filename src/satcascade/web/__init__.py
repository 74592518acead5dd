"""A page for the browser: pictures of captions on this machine, with Gradio, which only its modules import.

What the tabs ask of the model goes through :mod:`satcascade.web.jobs`, one job at a time.
"""
