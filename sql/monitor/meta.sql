-- How far the monitor's schema has been brought, and whose it is.
SELECT version, cluster FROM pgwarm.meta
