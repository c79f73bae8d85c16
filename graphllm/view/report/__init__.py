"""A plan as one page to look at, and as the JSON that the page shows.

``subject`` says what is told of a plan, ``data`` makes plain data of it, ``page`` puts the data into one HTML file that
needs no network. The page's own sources lie here, in ``page.html``, ``*.css`` and
``*.js``; ``schema.json`` describes the data.
"""
