-- Takes back what ALTER SYSTEM said about streaming.
ALTER SYSTEM RESET primary_conninfo
