-- A commit of the monitor waits for this server alone: it must end also while synchronous standbys are away.
SET synchronous_commit = local
