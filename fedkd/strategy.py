"""fedkd as a Flower Strategy, under the name that projects import it by."""

from fedkd.flower.strategy import Distillation

__all__ = ["Distillation"]
