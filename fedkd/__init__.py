"""Knowledge distillation between pre-trained models, on Flower.

What a method needs is importable from here; `fedkd.apps`, `fedkd.rounds` and `fedkd.strategy` add Flower.
"""

from fedkd.errors import UserError
from fedkd.federation import Federation
from fedkd.holdings import Holdings, Loader
from fedkd.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.node import SERVER, Data, Node, Pretraining, Training
from fedkd.spec import STRICT
from fedkd.train import Batch, Target, fit

__all__ = [
    "METHODS",
    "SERVER",
    "STRICT",
    "Batch",
    "Data",
    "Federation",
    "Holdings",
    "Knowledge",
    "Loader",
    "Method",
    "Node",
    "Pretraining",
    "Target",
    "Training",
    "UserError",
    "fit",
]
