-- A node that is gone has no state: were it to come back, everything about it would be news.
DELETE FROM pgwarm.states
 WHERE split_part(subject, ':', 2) = $1::text
    OR subject LIKE '%:' || $1::text || '/%'
    OR subject LIKE '%:' || $1::text || ' %'
