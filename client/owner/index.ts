/** The owner's state folder, for programs on Node: keys under a passphrase, pins, counters, the highest head. */
export { defaultCacheFolder, folderCache } from './cache.ts'
export { defaultFolder, StateFolder } from './folder.ts'
export { FIRST_COLLECTIONS, type NewOwner, OpenOwner, OwnerHome } from './home.ts'
export { makeOrder, type Order } from './order.ts'
