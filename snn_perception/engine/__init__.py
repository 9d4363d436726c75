"""One exported step, many backends: what runs a detector's network on a given machine, with the state passed through.

`build` makes an engine by its name; `step` describes the step that is exported; each backend is one module.
"""
