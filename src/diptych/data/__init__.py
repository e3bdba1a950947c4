"""Data: open images from wherever they are, prepare them once, split them, and say what was odd."""

from diptych.data.images import DataCard, DataSet, Images, Incident
from diptych.data.ingest import open_data, open_whole
from diptych.data.inspection import Inspection, inspect

__all__ = ["DataCard", "DataSet", "Images", "Incident", "Inspection", "inspect", "open_data", "open_whole"]
