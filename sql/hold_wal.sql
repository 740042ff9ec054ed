-- Keeps the server from recycling WAL as long as this session lives: a temporary slot, reserved at once.
SELECT slot_name::text FROM pg_create_physical_replication_slot($1, true, true)
