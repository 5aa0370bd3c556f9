"""A report of one session: one page that a reader can keep, print and check without a server.

content.py   collects what the page has
page.py      writes the page

Owns: which parts a report has, and their bounds.
Must not: import the command line, or write files.
"""
