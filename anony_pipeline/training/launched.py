"""What a launcher and the trainer that it starts tell each other: variables of the environment, and exit codes."""

LAUNCHED_VARIABLE = "ANONY_LAUNCHED"
"""Set by a launcher: standard input is a pipe that ends with the launcher, and the value is the grace in seconds."""
EVENTS_VARIABLE = "ANONY_EVENTS"
"""Names a file that gets each event as a JSON line: how a launcher follows the trainer."""

FAILED, TRY_AGAIN, STOPPED = 2, 75, 130
"""Exit codes: what the user can mend, as of `anony`; `EX_TEMPFAIL` of sysexits.h, where the same command may succeed
later; and ended by a signal."""
