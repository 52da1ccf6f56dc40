"""Environment variables through which a command is told of its work, as a sweep's trial on a cluster is."""

STORE_VARIABLE = "FAKESOUND_STORE"
CONFIG_VARIABLE = "FAKESOUND_CONFIG"
FEATURES_VARIABLE = "FAKESOUND_FEATURES"
RUN_VARIABLE = "FAKESOUND_RUN"
