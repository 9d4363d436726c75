"""How fast a model's step is by each engine, measured in turn in one process, beside what the processor can do at best.

inputs    the windows that are run
floors    the best a dense computation could do here
work      spikes of the network, and the energy they would take by the book
rates     whole windows at several event rates
run       all of it as one value, with every engine timed in turn (`engine.timing`) and compared (`engine.parity`)
page      the same for people: a table, a Markdown page, a picture; rates_page for the event rates
"""
