"""The timeline of one session, as a self-contained SVG.

scene.py     events -> spans, marks and moments in lanes   (start here)
rows.py      time -> rows of equal length, and quiet stretches
packing.py   spans and labels -> tracks without overlaps
render.py    tracks -> SVG, by the XML library of Python, which escapes every text

Must not: do I/O. It needs no drawing library for rectangles, lines and texts.
"""
