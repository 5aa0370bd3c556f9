"""The stored data and the valid input: events, keys, settings, ids and validation.

events.py    the event types              (start here)
codec.py     bytes of a stream entry <-> Event     upcasting.py  data of earlier versions
keys.py      every Redis key              settings.py  limits, and how they are set
ids.py       entry ids                    validation.py  checks of a caller's input
"""
