"""One network, and many: training, scoring, and how candidates are spread over devices and processes."""
