-- What of Immich 3.2's database a sync reads, and who is signed in: tables, columns, keys, indexes and triggers, as facts of the public schema.
-- Left out: what no device is sent (tags, shared links, jobs, search) and the indexes that need extensions.
-- Names of tables and columns are Immich's; gen_random_uuid() stands in for uuid-ossp's uuid_generate_v4().

CREATE TYPE assets_status_enum AS ENUM ('active', 'trashed', 'deleted');
CREATE TYPE asset_visibility_enum AS ENUM ('archive', 'timeline', 'hidden', 'locked');
CREATE TYPE asset_checksum_algorithm_enum AS ENUM ('sha1', 'sha1-path');
CREATE TYPE album_user_role_enum AS ENUM ('owner', 'editor', 'viewer');
CREATE TYPE sourcetype AS ENUM ('machine-learning', 'exif', 'manual');

-- A UUIDv7: 48 bits of milliseconds, the version, and else random, so ids of one millisecond have no order in time.
CREATE FUNCTION immich_uuid_v7(p_timestamp timestamptz DEFAULT clock_timestamp()) RETURNS uuid LANGUAGE sql VOLATILE AS
$$
  SELECT encode(
    set_bit(set_bit(overlay(
      uuid_send(gen_random_uuid())
      PLACING substring(int8send(floor(extract(epoch FROM p_timestamp) * 1000)::bigint) FROM 3)
      FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$$;

-- Tables

CREATE TABLE version_history ( -- each version that a server began to run with, the newest last
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  version varchar NOT NULL
);

CREATE TABLE cluster_group (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name varchar,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE "user" (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  email varchar NOT NULL UNIQUE,
  password varchar,
  "pinCode" varchar,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "profileImagePath" varchar NOT NULL DEFAULT '',
  "isAdmin" boolean NOT NULL DEFAULT false,
  "shouldChangePassword" boolean NOT NULL DEFAULT true,
  "avatarColor" varchar,
  "deletedAt" timestamptz,
  "oauthId" varchar NOT NULL DEFAULT '',
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "storageLabel" varchar UNIQUE,
  name varchar NOT NULL DEFAULT '',
  "quotaSizeInBytes" bigint,
  "quotaUsageInBytes" bigint NOT NULL DEFAULT 0,
  status varchar NOT NULL DEFAULT 'active',
  "profileChangedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "clusterGroupId" uuid NOT NULL REFERENCES cluster_group ON UPDATE CASCADE
);

CREATE TABLE user_metadata (
  "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  key varchar NOT NULL,
  value jsonb NOT NULL,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY ("userId", key)
);

CREATE TABLE partner (
  "sharedById" uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
  "sharedWithId" uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "inTimeline" boolean NOT NULL DEFAULT false,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  PRIMARY KEY ("sharedById", "sharedWithId")
);

CREATE TABLE library (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name varchar NOT NULL,
  "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  "importPaths" text[] NOT NULL,
  "exclusionPatterns" text[] NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "deletedAt" timestamptz,
  "refreshedAt" timestamptz,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE stack (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "primaryAssetId" uuid NOT NULL UNIQUE,
  "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE TABLE asset (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  type varchar NOT NULL,
  "originalPath" varchar NOT NULL,
  "fileCreatedAt" timestamptz NOT NULL,
  "fileModifiedAt" timestamptz NOT NULL,
  "isFavorite" boolean NOT NULL DEFAULT false,
  duration integer, -- milliseconds
  checksum bytea NOT NULL,
  "checksumAlgorithm" asset_checksum_algorithm_enum NOT NULL,
  "livePhotoVideoId" uuid REFERENCES asset ON UPDATE CASCADE ON DELETE SET NULL,
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "originalFileName" varchar NOT NULL,
  thumbhash bytea,
  "isOffline" boolean NOT NULL DEFAULT false,
  "libraryId" uuid REFERENCES library ON UPDATE CASCADE ON DELETE CASCADE,
  "isExternal" boolean NOT NULL DEFAULT false,
  "deletedAt" timestamptz,
  "localDateTime" timestamptz NOT NULL,
  "stackId" uuid REFERENCES stack ON UPDATE CASCADE ON DELETE SET NULL,
  "duplicateId" uuid,
  status assets_status_enum NOT NULL DEFAULT 'active',
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  visibility asset_visibility_enum NOT NULL DEFAULT 'timeline',
  width integer,
  height integer,
  "isEdited" boolean NOT NULL DEFAULT false
);
ALTER TABLE stack ADD FOREIGN KEY ("primaryAssetId") REFERENCES asset;

CREATE TABLE asset_exif (
  "assetId" uuid PRIMARY KEY REFERENCES asset ON DELETE CASCADE,
  make varchar,
  model varchar,
  "exifImageWidth" integer,
  "exifImageHeight" integer,
  "fileSizeInByte" bigint,
  orientation varchar,
  "dateTimeOriginal" timestamptz,
  "modifyDate" timestamptz,
  "lensModel" varchar,
  "fNumber" double precision,
  "focalLength" double precision,
  iso integer,
  latitude double precision,
  longitude double precision,
  city varchar,
  state varchar,
  country varchar,
  description text NOT NULL DEFAULT '',
  fps double precision,
  "exposureTime" varchar,
  "livePhotoCID" varchar,
  "timeZone" varchar,
  "projectionType" varchar,
  "profileDescription" varchar,
  colorspace varchar,
  "bitsPerSample" integer,
  "autoStackId" varchar,
  rating integer,
  tags varchar[],
  "updatedAt" timestamptz NOT NULL DEFAULT clock_timestamp(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "lockedProperties" varchar[]
);

CREATE TABLE asset_edit (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  action varchar NOT NULL,
  parameters jsonb NOT NULL,
  sequence integer NOT NULL,
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  UNIQUE ("assetId", sequence)
);

CREATE TABLE asset_metadata (
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  key varchar NOT NULL,
  value jsonb NOT NULL,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY ("assetId", key)
);

CREATE TABLE asset_ocr (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  x1 real NOT NULL,
  y1 real NOT NULL,
  x2 real NOT NULL,
  y2 real NOT NULL,
  x3 real NOT NULL,
  y3 real NOT NULL,
  x4 real NOT NULL,
  y4 real NOT NULL,
  "boxScore" real NOT NULL,
  "textScore" real NOT NULL,
  text text NOT NULL,
  "isVisible" boolean NOT NULL DEFAULT true,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE album (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "albumName" varchar NOT NULL DEFAULT 'Untitled Album',
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "albumThumbnailAssetId" uuid REFERENCES asset ON UPDATE CASCADE ON DELETE SET NULL,
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  description text DEFAULT '', -- of late it may be null
  "deletedAt" timestamptz,
  "isActivityEnabled" boolean NOT NULL DEFAULT true,
  "order" varchar NOT NULL DEFAULT 'desc',
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE album_user (
  "albumId" uuid NOT NULL REFERENCES album ON UPDATE CASCADE ON DELETE CASCADE,
  "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  role album_user_role_enum NOT NULL DEFAULT 'editor',
  "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY ("albumId", "userId")
);

CREATE TABLE album_asset (
  "albumId" uuid NOT NULL REFERENCES album ON UPDATE CASCADE ON DELETE CASCADE,
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  PRIMARY KEY ("albumId", "assetId")
);

CREATE TABLE memory (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "deletedAt" timestamptz,
  "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  type varchar NOT NULL,
  data jsonb NOT NULL,
  "isSaved" boolean NOT NULL DEFAULT false,
  "memoryAt" timestamptz NOT NULL,
  "seenAt" timestamptz,
  "showAt" timestamptz,
  "hideAt" timestamptz,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE memory_asset (
  "memoriesId" uuid NOT NULL REFERENCES memory ON UPDATE CASCADE ON DELETE CASCADE,
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  PRIMARY KEY ("memoriesId", "assetId")
);

CREATE TABLE person_group (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "clusterGroupId" uuid NOT NULL REFERENCES cluster_group ON UPDATE CASCADE ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE asset_face (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
  "personGroupId" uuid REFERENCES person_group ON UPDATE CASCADE ON DELETE SET NULL,
  "imageWidth" integer NOT NULL DEFAULT 0,
  "imageHeight" integer NOT NULL DEFAULT 0,
  "boundingBoxX1" integer NOT NULL DEFAULT 0,
  "boundingBoxY1" integer NOT NULL DEFAULT 0,
  "boundingBoxX2" integer NOT NULL DEFAULT 0,
  "boundingBoxY2" integer NOT NULL DEFAULT 0,
  "sourceType" sourcetype NOT NULL DEFAULT 'machine-learning',
  "deletedAt" timestamptz,
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "isVisible" boolean NOT NULL DEFAULT true
);

-- A person is what one user calls a group of faces.
CREATE TABLE person (
  "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  "personGroupId" uuid NOT NULL REFERENCES person_group ON UPDATE CASCADE ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  name varchar NOT NULL DEFAULT '',
  "thumbnailPath" varchar NOT NULL DEFAULT '',
  "isHidden" boolean NOT NULL DEFAULT false,
  "birthDate" date CHECK ("birthDate" <= current_date),
  "faceAssetId" uuid REFERENCES asset_face ON DELETE SET NULL,
  "isFavorite" boolean NOT NULL DEFAULT false,
  color varchar,
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  PRIMARY KEY ("ownerId", "personGroupId")
);

-- Who is signed in. Tokens and keys are the 32 bytes of their SHA-256.

CREATE TABLE session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  token bytea NOT NULL,
  "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  "parentId" uuid REFERENCES session ON UPDATE CASCADE ON DELETE CASCADE,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "expiresAt" timestamptz,
  "deviceType" varchar NOT NULL DEFAULT '',
  "deviceOS" varchar NOT NULL DEFAULT '',
  "appVersion" varchar,
  "pinExpiresAt" timestamptz,
  "isPendingSyncReset" boolean NOT NULL DEFAULT false,
  "oauthSid" varchar,
  "oauthBearerToken" varchar, -- an ID token, in the clear
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

CREATE TABLE session_sync_checkpoint (
  "sessionId" uuid NOT NULL REFERENCES session ON UPDATE CASCADE ON DELETE CASCADE,
  type varchar NOT NULL,
  ack varchar NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  PRIMARY KEY ("sessionId", type)
);

CREATE TABLE api_key (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name varchar NOT NULL,
  key bytea NOT NULL,
  "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  permissions varchar[] NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);

-- Delete markers: a UUIDv7 of the moment, what was deleted, and the moment again.

DO $$
DECLARE
  name text;
  columns text;
BEGIN
  FOR name, columns IN VALUES
    ('user', '"userId" uuid NOT NULL'),
    ('user_metadata', '"userId" uuid NOT NULL, key varchar NOT NULL'),
    ('partner', '"sharedById" uuid NOT NULL, "sharedWithId" uuid NOT NULL'),
    ('asset', '"assetId" uuid NOT NULL, "ownerId" uuid NOT NULL'),
    ('asset_edit', '"editId" uuid NOT NULL, "assetId" uuid NOT NULL'),
    ('asset_face', '"assetFaceId" uuid NOT NULL, "assetId" uuid NOT NULL'),
    ('asset_metadata', '"assetId" uuid NOT NULL, key varchar NOT NULL'),
    ('asset_ocr', '"assetId" uuid NOT NULL'),
    ('album', '"albumId" uuid NOT NULL, "userId" uuid NOT NULL'),
    ('album_user', '"albumId" uuid NOT NULL, "userId" uuid NOT NULL'),
    ('album_asset', '"albumId" uuid NOT NULL REFERENCES album ON UPDATE CASCADE ON DELETE CASCADE, "assetId" uuid NOT NULL'),
    ('memory', '"memoryId" uuid NOT NULL, "userId" uuid NOT NULL'),
    ('memory_asset', '"memoryId" uuid NOT NULL REFERENCES memory ON UPDATE CASCADE ON DELETE CASCADE, "assetId" uuid NOT NULL'),
    ('stack', '"stackId" uuid NOT NULL, "userId" uuid NOT NULL'),
    ('person', '"personGroupId" uuid NOT NULL, "ownerId" uuid NOT NULL'),
    ('person_group', '"personGroupId" uuid NOT NULL, "clusterGroupId" uuid NOT NULL')
  LOOP
    EXECUTE format(
      'CREATE TABLE %I (id uuid PRIMARY KEY DEFAULT immich_uuid_v7(), %s, '
      '"deletedAt" timestamptz NOT NULL DEFAULT clock_timestamp())', name || '_audit', columns);
    EXECUTE format('CREATE INDEX ON %I ("deletedAt")', name || '_audit');
  END LOOP;
END
$$;

-- Indexes

CREATE INDEX ON cluster_group ("updateId");
CREATE INDEX ON "user" ("updateId");
CREATE INDEX ON "user" ("updatedAt", id);
CREATE INDEX ON "user" ("clusterGroupId");
CREATE INDEX ON user_metadata ("updateId");
CREATE INDEX ON user_metadata ("updatedAt");
CREATE INDEX ON user_metadata_audit (key);
CREATE INDEX ON user_metadata_audit ("userId");
CREATE INDEX ON partner ("createId");
CREATE INDEX ON partner ("updateId");
CREATE INDEX ON partner ("sharedWithId");
CREATE INDEX ON partner_audit ("sharedById");
CREATE INDEX ON partner_audit ("sharedWithId");
CREATE INDEX ON library ("ownerId");
CREATE INDEX ON library ("updateId");
CREATE INDEX ON stack ("primaryAssetId");
CREATE INDEX ON stack ("ownerId");
CREATE UNIQUE INDEX ON asset ("ownerId", checksum) WHERE "libraryId" IS NULL;
CREATE UNIQUE INDEX ON asset ("ownerId", "libraryId", checksum) WHERE "libraryId" IS NOT NULL;
CREATE INDEX ON asset (checksum);
CREATE INDEX ON asset ("createdAt");
CREATE INDEX ON asset ("duplicateId");
CREATE INDEX ON asset ("fileCreatedAt");
CREATE INDEX ON asset (id, "stackId");
CREATE INDEX ON asset (id) WHERE visibility = 'timeline' AND "deletedAt" IS NULL;
CREATE INDEX ON asset ("libraryId");
CREATE INDEX ON asset ("livePhotoVideoId");
CREATE INDEX ON asset ((("localDateTime" AT TIME ZONE 'UTC')::date));
CREATE INDEX ON asset ((date_trunc('MONTH', "localDateTime" AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'));
CREATE INDEX ON asset ("originalFileName");
CREATE INDEX ON asset ("originalPath", "libraryId");
CREATE INDEX ON asset ("ownerId");
CREATE INDEX ON asset ("stackId");
CREATE INDEX ON asset ("updateId");
CREATE INDEX ON asset_audit ("assetId");
CREATE INDEX ON asset_audit ("ownerId");
CREATE INDEX ON asset_exif ("autoStackId");
CREATE INDEX ON asset_exif (city);
CREATE INDEX ON asset_exif ("livePhotoCID");
CREATE INDEX ON asset_exif ("updateId");
CREATE INDEX ON asset_edit ("assetId");
CREATE INDEX ON asset_edit ("updateId");
CREATE INDEX ON asset_edit_audit ("assetId");
CREATE INDEX ON asset_metadata ("updateId");
CREATE INDEX ON asset_metadata ("updatedAt");
CREATE INDEX ON asset_metadata_audit ("assetId");
CREATE INDEX ON asset_metadata_audit (key);
CREATE INDEX ON asset_ocr ("assetId");
CREATE INDEX ON asset_ocr ("updateId");
CREATE INDEX ON asset_ocr_audit ("assetId");
CREATE INDEX ON album ("albumThumbnailAssetId");
CREATE INDEX ON album ("updateId");
CREATE INDEX ON album_audit ("albumId");
CREATE INDEX ON album_audit ("userId");
CREATE INDEX ON album_user ("albumId");
CREATE INDEX ON album_user ("userId");
CREATE INDEX ON album_user ("createId");
CREATE INDEX ON album_user ("updateId");
CREATE UNIQUE INDEX ON album_user ("albumId") WHERE role = 'owner';
CREATE INDEX ON album_user_audit ("albumId");
CREATE INDEX ON album_user_audit ("userId");
CREATE INDEX ON album_asset ("albumId");
CREATE INDEX ON album_asset ("assetId");
CREATE INDEX ON album_asset ("updateId");
CREATE INDEX ON album_asset_audit ("albumId");
CREATE INDEX ON album_asset_audit ("assetId");
CREATE INDEX ON memory ("ownerId");
CREATE INDEX ON memory ("updateId");
CREATE INDEX ON memory_audit ("memoryId");
CREATE INDEX ON memory_audit ("userId");
CREATE INDEX ON memory_asset ("memoriesId");
CREATE INDEX ON memory_asset ("assetId");
CREATE INDEX ON memory_asset ("updateId");
CREATE INDEX ON memory_asset_audit ("memoryId");
CREATE INDEX ON memory_asset_audit ("assetId");
CREATE INDEX ON person_group ("clusterGroupId");
CREATE INDEX ON person_group ("createId");
CREATE INDEX ON person_group ("updateId");
CREATE INDEX ON person_group_audit ("personGroupId");
CREATE INDEX ON person_group_audit ("clusterGroupId");
CREATE INDEX ON person ("personGroupId");
CREATE INDEX ON person ("faceAssetId");
CREATE INDEX ON person ("updateId");
CREATE INDEX ON person_audit ("ownerId");
CREATE INDEX ON person_audit ("personGroupId");
CREATE INDEX ON asset_face ("assetId", "personGroupId");
CREATE INDEX ON asset_face ("personGroupId", "assetId");
CREATE INDEX ON asset_face ("personGroupId", "assetId") WHERE "deletedAt" IS NULL AND "isVisible" IS TRUE;
CREATE INDEX ON asset_face_audit ("assetFaceId");
CREATE INDEX ON asset_face_audit ("assetId");
CREATE INDEX ON session (token);
CREATE INDEX ON session ("userId");
CREATE INDEX ON session ("parentId");
CREATE INDEX ON session ("updateId");
CREATE INDEX ON session_sync_checkpoint ("sessionId");
CREATE INDEX ON session_sync_checkpoint ("updateId");
CREATE INDEX ON api_key (key);
CREATE INDEX ON api_key ("userId");

-- Every update gives a new updateId; not that of asset_ocr, whose rows are only ever replaced.

CREATE FUNCTION updated_at() RETURNS trigger LANGUAGE plpgsql AS
$$
DECLARE
  moment timestamptz := clock_timestamp();
BEGIN
  new."updatedAt" = moment;
  new."updateId" = immich_uuid_v7(moment);
  RETURN new;
END
$$;

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'cluster_group', 'user', 'user_metadata', 'partner', 'library', 'stack', 'asset', 'asset_exif', 'asset_edit',
    'asset_metadata', 'album', 'album_user', 'album_asset', 'memory', 'memory_asset', 'person_group', 'person',
    'asset_face', 'session', 'session_sync_checkpoint', 'api_key'
  ] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION updated_at()',
      name || '_updatedAt', name);
  END LOOP;
END
$$;

-- Whoever joins an album changes it; its owner, who comes with it, does not.

CREATE FUNCTION album_user_after_insert() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
  UPDATE album SET "updatedAt" = clock_timestamp(), "updateId" = immich_uuid_v7(clock_timestamp())
  WHERE id IN (SELECT "albumId" FROM inserted_rows) AND NOT EXISTS (SELECT FROM inserted_rows WHERE role = 'owner');
  RETURN NULL;
END
$$;
CREATE TRIGGER album_user_after_insert AFTER INSERT ON album_user
  REFERENCING NEW TABLE AS inserted_rows FOR EACH STATEMENT EXECUTE FUNCTION album_user_after_insert();

-- An album goes with its owner.

CREATE FUNCTION album_user_delete() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
  DELETE FROM album
  WHERE id = old."albumId" AND NOT EXISTS (SELECT FROM album_user WHERE "albumId" = album.id AND role = 'owner');
  RETURN NULL;
END
$$;
CREATE TRIGGER album_user_delete AFTER DELETE ON album_user FOR EACH ROW EXECUTE FUNCTION album_user_delete();

-- Edits say so at their asset.

CREATE FUNCTION asset_edit_insert() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
  UPDATE asset SET "isEdited" = true FROM inserted_edit
  WHERE asset.id = inserted_edit."assetId" AND NOT asset."isEdited";
  RETURN NULL;
END
$$;
CREATE TRIGGER asset_edit_insert AFTER INSERT ON asset_edit
  REFERENCING NEW TABLE AS inserted_edit FOR EACH STATEMENT EXECUTE FUNCTION asset_edit_insert();

CREATE FUNCTION asset_edit_delete() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
  UPDATE asset SET "isEdited" = false FROM deleted_edit
  WHERE asset.id = deleted_edit."assetId" AND asset."isEdited"
    AND NOT EXISTS (SELECT FROM asset_edit WHERE "assetId" = asset.id);
  RETURN NULL;
END
$$;
CREATE TRIGGER asset_edit_delete AFTER DELETE ON asset_edit
  REFERENCING OLD TABLE AS deleted_edit FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
  EXECUTE FUNCTION asset_edit_delete();

-- Deletes leave a marker: most only those that were asked for (depth 0), members and links also those that went with
-- an asset, an album or a memory (depth 1), where what they belonged to is still there.

DO $$
DECLARE
  name text;
  columns text;
  depth text;
  condition text;
BEGIN
  FOR name, columns, depth, condition IN VALUES
    ('user', '"userId"=id', '= 0', ''),
    ('user_metadata', '"userId"="userId",key=key', '= 0', ''),
    ('partner', '"sharedById"="sharedById","sharedWithId"="sharedWithId"', '= 0', ''),
    ('asset', '"assetId"=id,"ownerId"="ownerId"', '= 0', ''),
    ('asset_edit', '"editId"=id,"assetId"="assetId"', '= 0', ''),
    ('asset_face', '"assetFaceId"=id,"assetId"="assetId"', '= 0', ''),
    ('asset_metadata', '"assetId"="assetId",key=key', '= 0', ''),
    ('asset_ocr', '"assetId"="assetId"', '= 0', ''),
    ('album_asset', '"albumId"="albumId","assetId"="assetId"', '<= 1',
     'WHERE "albumId" IN (SELECT id FROM album)'),
    ('memory', '"memoryId"=id,"userId"="ownerId"', '= 0', ''),
    ('memory_asset', '"memoryId"="memoriesId","assetId"="assetId"', '<= 1',
     'WHERE "memoriesId" IN (SELECT id FROM memory)'),
    ('stack', '"stackId"=id,"userId"="ownerId"', '= 0', ''),
    ('person', '"personGroupId"="personGroupId","ownerId"="ownerId"', '<= 1', ''),
    ('person_group', '"personGroupId"=id,"clusterGroupId"="clusterGroupId"', '= 0', '')
  LOOP
    EXECUTE format(
      'CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN '
      'INSERT INTO %I (%s) SELECT %s FROM old %s; RETURN NULL; END $body$',
      name || '_delete_audit', name || '_audit',
      (SELECT string_agg(split_part(pair, '=', 1), ', ') FROM unnest(string_to_array(columns, ',')) pair),
      (SELECT string_agg(split_part(pair, '=', 2), ', ') FROM unnest(string_to_array(columns, ',')) pair), condition);
    EXECUTE format(
      'CREATE TRIGGER %I AFTER DELETE ON %I REFERENCING OLD TABLE AS old FOR EACH STATEMENT '
      'WHEN (pg_trigger_depth() %s) EXECUTE FUNCTION %I()', name || '_delete_audit', name, depth, name || '_delete_audit');
  END LOOP;
END
$$;

-- A member who leaves: for them the album is gone; the others learn of it unless the album itself went.

CREATE FUNCTION album_user_delete_audit() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
  INSERT INTO album_audit ("albumId", "userId") SELECT "albumId", "userId" FROM old;
  IF pg_trigger_depth() = 1 THEN
    INSERT INTO album_user_audit ("albumId", "userId") SELECT "albumId", "userId" FROM old;
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER album_user_delete_audit AFTER DELETE ON album_user
  REFERENCING OLD TABLE AS old FOR EACH STATEMENT WHEN (pg_trigger_depth() <= 1)
  EXECUTE FUNCTION album_user_delete_audit();
