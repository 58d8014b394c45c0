"""Knowledge distillation between pre-trained models, on Flower.

What a method needs is importable from here; `fedkd.apps` and `fedkd.strategy` add Flower.
"""

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.distillation.distilling import Distilling
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.node.holdings import Holdings, Loader
from fedkd.node.node import SERVER, Node
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit

__all__ = [
    "METHODS",
    "SERVER",
    "STRICT",
    "Batch",
    "Data",
    "Distilling",
    "Federation",
    "Fit",
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
