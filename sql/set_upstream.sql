-- Sets what the server streams from; {upstream} is a literal. An empty one ends streaming.
ALTER SYSTEM SET primary_conninfo = {upstream}
