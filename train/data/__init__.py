"""The pictures: layouts, captions, sizes, batches; what is held out; what is reported."""
