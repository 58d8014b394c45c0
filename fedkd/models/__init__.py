"""Networks that clients hold: one architecture a file, named like the file."""

from fedkd.models.architecture import Architecture, LanguageModel, Model
from fedkd.models.assign import ARCHITECTURES, assignment, build_model, restored_model

__all__ = ["ARCHITECTURES", "Architecture", "LanguageModel", "Model", "assignment", "build_model", "restored_model"]
