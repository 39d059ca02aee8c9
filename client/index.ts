/**
 * The owner's side as a library. Runs in Node and in browsers.
 *
 * @example
 * import { connect, releaseKeys, saveMemory, getMemories } from 'attested-pod/client'
 *
 * const session = await connect(url, owner)   // appraised, or thrown; nothing of the owner's sent before
 * await releaseKeys(session)
 * await saveMemory(session, { text: 'the spare key is under the third pot' })
 * for await (const memory of getMemories(session)) console.log(memory.text)
 */
export {
  capture,
  type Captured,
  type ConnectOptions,
  connect,
  type Examination,
  examine,
  type RequestOptions,
  Session,
} from './session/session.ts'
export { appraise, type OwnerAppraisal, ownerPolicy } from './session/policy.ts'
export {
  collectionId,
  lock,
  type PodStatus,
  publishPolicy,
  type ReleaseOptions,
  releaseKeys,
  status,
} from './session/release.ts'
export type { HeadStore, Owner, ReleaseRoots, ReleasingOwner, SeenCollateral, Trust } from './session/owner.ts'
export { nothingSeen } from './session/seen.ts'
export { type CollateralCache, memoryCache } from './collateral/cache.ts'
export {
  CollateralClient,
  type CollateralClientOptions,
  type Completion,
  type Demands,
  demandsOf,
  type Obtained,
} from './collateral/client.ts'
export { type Clock, systemClock } from './session/clock.ts'
export { PART_BYTES, SealedResponse } from './session/exchange.ts'
export { type Changed } from './data/batch.ts'
export { type Json, refreshHead } from './data/api.ts'
export { type Download, download, type UploadOptions, upload } from './data/files.ts'
export { type Item, type Items, items, type NewItem, type Page, type PageOptions } from './data/items.ts'
export { type Change, events, log, type PodEvent } from './data/log.ts'
export { getMemories, type Memory, type MemoryQuery, type NewMemory, saveMemory } from './data/memories.ts'
export { type MemoSlot, packData, type UnpackedMemo, unpackAndDecrypt } from './memo/packages.ts'
