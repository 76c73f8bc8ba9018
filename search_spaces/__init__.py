"""Search spaces of LR policies, one YAML file per published task."""
