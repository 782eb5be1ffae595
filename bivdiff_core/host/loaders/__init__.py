"""Networks that core knows no loader for, as host objects."""
