"""The pictures: layouts, captions, sizes, batches; what is held out; what is reported."""

from train.data.loading import Pictures, load_pictures
from train.data.picture import DataError, Picture, open_picture

__all__ = ["DataError", "Picture", "Pictures", "load_pictures", "open_picture"]
