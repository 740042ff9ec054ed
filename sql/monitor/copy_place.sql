-- What a server is that is to keep a copy: it must have nothing to do with the cluster it judges.
SELECT pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier
