-- Tells the server to end recovery; does not wait until it has.
SELECT pg_promote(wait => false) AS told
