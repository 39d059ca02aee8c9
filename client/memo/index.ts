/**
 * The Memo SDK: packages to hand over or to keep with a service, and memories in the pod itself, where they belong.
 */
export {
  type MemoSlot,
  type OpeningV1,
  type OpeningV2,
  packData,
  type PackingV1,
  type PackingV2,
  type UnpackedMemo,
  unpackAndDecrypt,
} from './packages.ts'
export { MemoKey, MemoPublicKey } from './rsa.ts'
export { openV1WithoutCheckingWhoWroteIt } from './v1.ts'
export { getMemories, type Memory, type MemoryQuery, type NewMemory, saveMemory } from '../data/memories.ts'
