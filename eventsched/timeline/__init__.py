"""A picture of one session, as SVG that needs nothing else.

scene.py     events -> spans and marks in lanes: what there is to see   (start here)
paging.py    time -> rows: how long a row is, where nothing happened
packing.py   spans and labels -> places, so that nothing covers anything
drawing.py   places -> SVG, by the XML library that comes with Python: it escapes every text

Never does: I/O. No library draws it: a few dozen rectangles, lines and texts do not need one.
"""
