"""FlexAttention on one mask whose mask_mod is written in several ways (mask_mod_variants.py)."""


def test_spelling_forward(spelling, cell):
    cell.check_and_time()


def test_spelling_backward(spelling, cell):
    cell.check_and_time()
