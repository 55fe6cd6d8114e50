-- Events that concern no image, and the name by which uploads are announced.

ALTER TABLE events ALTER COLUMN image_id DROP NOT NULL;

UPDATE events SET kind = 'image.uploaded' WHERE kind = 'image.stored';
