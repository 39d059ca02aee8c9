/**
 * What api and keyholder say to each other over `keyholder-api/`, in both directions (PROTOCOL 2.10).
 * The keyholder answers only for a live session, within its grant, for open leases. There is no verb here that
 * releases, locks, changes policy, adds a device or quotes: those live on control streams, which the api cannot open.
 */
import { array, bytes, nullable, oneOf, struct, text, tuple, uint } from '../../attestation/wire.ts'

export const sid = bytes(16)
export const coll = bytes(16)
export const itemId = bytes(16)
const hash = bytes(32)
/** A sealed bucket of about 128 entries, twice that before a split, more where hashing is unlucky. */
const bucket = struct([], { index: uint(0xffffffff), sealed: bytes({ max: 256 * 1024 }) })

/**
 * What a grant's scope may name (PROTOCOL 2.3). `read` gives keys and answers about rows; the others admit one kind of
 * change each, and a key that seals a new version. A session of the owner or of a device has them all.
 */
export const grantVerbs = ['read', 'create', 'update', 'delete'] as const
export type GrantVerb = (typeof grantVerbs)[number]

/** Largest message of this link (`messages.ts` carries it): a commit of 256 changes with its buckets. */
export const MESSAGE_CAP = 16 * 1024 * 1024
export const MAX_BATCH = 1024

/** What the row of an unfinished upload is sealed as: items begin with version 1. */
export const UPLOAD_VERSION = 0

/** api → keyholder. */
export const apiRequest = oneOf({
  /** First of each connection: makes it the one over which the keyholder asks. Answered `done`; a `phase` follows. */
  attach: {},
  /** First stream of a session the api does not know: its application secrets, handed out once. */
  session: { sid },
  /** Keys that open stored rows; each row must be the one its bucket names. */
  openKeys: {
    sid,
    rows: array(
      struct([], { coll, id: itemId, version: uint(), salt: bytes(16), epoch: uint(0xffffffff), rowHash: hash }),
      { max: MAX_BATCH },
    ),
    buckets: array(bucket, { max: MAX_BATCH }),
  },
  /** What the map says of these items: the version and row hash, or that there is none. Under `read` of their collections. */
  lookUp: {
    sid,
    items: array(struct([], { coll, id: itemId }), { max: MAX_BATCH }),
    buckets: array(bucket, { max: MAX_BATCH }),
  },
  /**
   * Keys that seal new versions; the keyholder names the salt, epoch and key id to write into the row. The salt is its
   * own choice: under that of a stored row this would be the key that opens it, uncounted and whatever the map says.
   */
  sealKeys: { sid, rows: array(struct([], { coll, id: itemId, version: uint() }), { max: MAX_BATCH }) },
  /** The key of an unfinished upload's row, for whoever may create the item: that of version 0, which no item has. */
  uploadKey: { sid, coll, id: itemId, salt: bytes(16) },
  /** One commit: changes of many requests, each under its own session. One may be outstanding. */
  append: {
    changes: array(
      struct([], {
        sid,
        coll,
        id: itemId,
        /** The version that must stand in the map now; null where there must be none. */
        expected: nullable(uint()),
        version: uint(),
        /** SHA-256 of the sealed row, null for a deletion. */
        rowHash: nullable(hash),
      }),
      { max: MAX_BATCH },
    ),
    buckets: array(bucket, { max: MAX_BATCH }),
  },
  /** The transaction is durable: adopt the prepared head. */
  adopt: { seq: uint() },
  /** The transaction is certainly not durable. */
  abandon: { seq: uint() },
  /** A split of the bucket map, asked for by `append`'s answer; all buckets in ascending order, some at a time. */
  split: { buckets: array(bucket, { max: MAX_BATCH }), last: uint(1) },
  /**
   * A fresh pod takes in another's items: all buckets of the new map in ascending order, some at a time; with `from`,
   * the last of them. For the root, or a device that may recover.
   */
  restore: {
    sid,
    count: uint(0xffffffff),
    buckets: array(array(struct([], { coll, id: itemId, version: uint(), rowHash: hash }), { max: MAX_BATCH }), {
      max: MAX_BATCH,
    }),
    from: nullable(struct([], { pod: bytes(16), head: bytes({ max: 512 }) })),
  },
  /** The adopted head, for a client that asks and for the pod's time. Answered `adopted`. */
  head: {},
  /** Leaves of the log, sealed, to be opened for the owner. */
  openLeaves: {
    sid,
    leaves: array(struct([], { seq: uint(), sealed: bytes({ max: MESSAGE_CAP }) }), { max: MAX_BATCH }),
  },
})

const key = bytes(32)
/** As the keyholder made it; `hash` is over the plaintext bucket, an input of the state root. */
const newBucket = struct([], { index: uint(0xffffffff), sealed: bytes({ max: 256 * 1024 }), hash })
/** A row of coll = 16 zero bytes that the keyholder keeps (map key, pod state, key check values). */
const stateRow = struct([], { id: itemId, version: uint(), sealed: bytes({ max: 256 * 1024 }) })
/** What the api must write in one transaction with its rows. */
export const prepared = struct([], {
  seq: uint(),
  leaf: bytes({ max: MESSAGE_CAP }),
  leafHash: hash,
  /** Perfect subtrees of the log that this leaf completes: helper rows for peaks and proofs, by level and index. */
  nodes: array(struct([], { level: uint(64), index: uint(), hash }), { max: 64 }),
  buckets: array(newBucket, { max: 2 * MAX_BATCH }),
  bucketCount: uint(0xffffffff),
  stateRows: array(stateRow, { max: MAX_BATCH }),
  /** The sealed head row for the store; clients get the head itself after `adopt`. */
  head: bytes({ max: 512 }),
})

const sealKey = struct([], { key, salt: bytes(16), kid: bytes(16), epoch: uint(0xffffffff) })

/** keyholder → api, in answer. */
export const keyholderAnswer = oneOf({
  session: {
    c2s: key,
    s2c: key,
    principal: text({ max: 16 }), // 'owner' | 'device' | 'grant'
    principalId: bytes({ max: 32 }),
    /** Encoded scopes of a grant; null where everything that is open is allowed. */
    scopes: nullable(bytes({ max: 64 * 1024 })),
    /** Stream windows handed over from the previous generation; null for a fresh session. */
    window: nullable(bytes({ max: 256 })),
  },
  keys: { keys: array(nullable(key), { max: MAX_BATCH }) },
  sealKeys: { keys: array(sealKey, { max: MAX_BATCH }) },
  uploadKey: { key: sealKey },
  found: { items: array(nullable(struct([], { version: uint(), rowHash: nullable(hash) })), { max: MAX_BATCH }) },
  prepared: {
    commit: prepared,
    /** Per change: null where it is in the commit, else the code of its refusal. */
    refused: array(nullable(text({ max: 32 })), { max: MAX_BATCH }),
    split: uint(1),
  },
  /** To every `split` and `restore` but the last: the buckets to write. The last is answered `prepared`. */
  halves: { buckets: array(newBucket, { max: 2 * MAX_BATCH }) },
  /** Nothing to commit: every change was refused. */
  nothing: { refused: array(nullable(text({ max: 32 })), { max: MAX_BATCH }) },
  adopted: { head: bytes({ max: 512 }) },
  leaves: { leaves: array(bytes({ max: MESSAGE_CAP }), { max: MAX_BATCH }) },
  done: {},
  /** One code of the closed union; the api turns it into its own error. */
  refused: { code: text({ max: 32 }) },
})

/** keyholder → api, unasked. */
export const keyholderRequest = oneOf({
  /**
   * Phase of the pod: 1 locked, 2 opening, 3 unlocked, 4 suspect. From 3 on with the key that places items in buckets:
   * the api is told every item's bucket anyway, and computes it here rather than ask. In phase 4 with the code of what
   * was found.
   */
  phase: { phase: uint(4), mapKey: nullable(key), reason: nullable(text({ max: 32 })) },
  /** What the store holds, for `Ledger.open`: called while opening. Consistency from `known` leaves (0: none). */
  state: { known: uint() },
  /** The bucket hashes, from `first`, at most 32768 a call. */
  bucketHashes: { first: uint(0xffffffff) },
  /** Write a commit of the keyholder's own (release, policy, lock). Answered when durable. */
  commit: { commit: prepared },
  /** Sealed buckets by index, for a commit of the keyholder's own. */
  buckets: { indices: array(uint(0xffffffff), { max: MAX_BATCH }) },
  /** These sessions are over: their streams end within a second. */
  ended: { sids: array(sid, { max: MAX_BATCH }) },
  /** Finish or cut open streams within five seconds, take no new ones, give the windows back. */
  drain: {},
})

/** api → keyholder, in answer to the above. */
export const apiAnswer = oneOf({
  done: {},
  state: {
    head: nullable(bytes({ max: 512 })),
    peaks: array(hash, { max: 64 }),
    consistency: array(hash, { max: 128 }),
    lastLeaf: nullable(bytes({ max: MESSAGE_CAP })),
    inclusion: array(hash, { max: 64 }),
    bucketCount: uint(0xffffffff),
    stateRows: array(stateRow, { max: MAX_BATCH }),
  },
  bucketHashes: { hashes: bytes({ max: 32 * 32768 }) },
  buckets: { buckets: array(bucket, { max: MAX_BATCH }) },
  drained: { windows: array(tuple(sid, bytes({ max: 256 })), { max: 4096 }) },
  refused: { code: text({ max: 32 }) },
})
