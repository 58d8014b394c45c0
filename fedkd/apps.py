"""The Flower ClientApp, under the name that projects import it by."""

from fedkd.flower.apps import client_app

__all__ = ["client_app"]
