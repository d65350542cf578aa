"""What a probe is for."""

# something new of the subject; a training caption; the class, without the trigger word
FRESH, CAPTION, CLASS = "fresh", "caption", "class"
