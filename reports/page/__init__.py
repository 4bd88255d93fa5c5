"""The page of saved runs: one HTML file that works offline.

`data` and the modules that it uses turn runs into plain JSON. `build` puts that, the scripts of
`script/` and the library of `vendor/` into the template. All that a reader sees is made from the
JSON in the browser, as text and never as markup.
"""
