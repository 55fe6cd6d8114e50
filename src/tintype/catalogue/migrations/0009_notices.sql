-- Events that concern no image, and the name by which uploads are announced.

ALTER TABLE events ALTER COLUMN image_id DROP NOT NULL;

SET LOCAL row_security = on;
SET LOCAL ROLE tintype_worker; -- who sees the rows of every owner
UPDATE events SET kind = 'image.uploaded' WHERE kind = 'image.stored';
RESET ROLE;
