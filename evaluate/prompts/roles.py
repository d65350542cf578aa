"""The roles of probes."""

# new attributes for the subject; a training caption; the class without the trigger word
FRESH, CAPTION, CLASS = "fresh", "caption", "class"
