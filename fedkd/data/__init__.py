"""Images and text, prepared once and shared between processes: `load("digits")`, `load("python_text")`, …"""

from fedkd.data.cache import cache_root
from fedkd.data.dataset import Dataset
from fedkd.data.loading import load
from fedkd.data.source import Prepared, Progress, Source
from fedkd.data.sources import SOURCES

__all__ = ["SOURCES", "Dataset", "Prepared", "Progress", "Source", "cache_root", "load"]
