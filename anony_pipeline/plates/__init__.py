"""License plates: styles as data, serials by grammar, rendering, and fitting into a scene."""
