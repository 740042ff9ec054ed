-- Forgets a node, and with it its history of lag and its report. What happened to it stays.
DELETE FROM pgwarm.nodes WHERE name = $1::text
