-- The state in which each subject was told to be last.
SELECT subject, state FROM pgwarm.states
