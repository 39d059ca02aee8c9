import type { Property } from './search.ts'

/** What a search says on its standard output, as JSON. */
export type Report = Readonly<{
  broken: Readonly<Partial<Record<Property, readonly string[]>>>
  reachable: boolean
  traces: number
  states: number
  complete: boolean
}>
