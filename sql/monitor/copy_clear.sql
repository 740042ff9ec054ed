-- Empties a copy of the registry. What the nodes said of themselves goes with the nodes.
WITH nodes AS (DELETE FROM pgwarm.nodes),
     pauses AS (DELETE FROM pgwarm.pauses),
     events AS (DELETE FROM pgwarm.events)
DELETE FROM pgwarm.copies
