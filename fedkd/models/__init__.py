"""Networks that clients hold: one architecture a file, found by its name."""

from fedkd.models.architecture import Architecture, LanguageModel, Model
from fedkd.models.assign import ARCHITECTURES, assignment, build_model, restored_model

__all__ = ["ARCHITECTURES", "Architecture", "LanguageModel", "Model", "assignment", "build_model", "restored_model"]
