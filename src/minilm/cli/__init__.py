"""The command line: one thin file per verb; heavy imports happen inside the verb."""
