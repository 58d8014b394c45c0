"""Whole federations re-stated in plain PyTorch, and held against what fedkd makes of the same recipe.

What the two share: the data set, the split (the manifest), and the modules that networks are made of. Everything else
is written here a second time, from the documentation: random streams, batches, pre-training, optimisers, losses,
merges, masks, what travels and what it costs, and every number that a round reports. `test_independence.py` holds that
nothing else of fedkd is imported.

It is plain and slow, and it refuses nothing: a setting that it does not know is a setting that no test here uses.
"""
