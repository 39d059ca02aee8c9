/**
 * What an owner decides: ways back, any one of which suffices, each a majority of groups in which each is a majority of
 * holders. Whole before anything is split: a plan that cannot work, or that gives the keys to one alone, is refused
 * with its reason (RECOVERY-AND-DATA 3.2, 5).
 */
import { Malformed } from '../../attestation/errors.ts'
import { checkPlan } from './shares/slip39.ts'

/** `paper` is the owner's own sheet; a `person` is asked by voice; an `organisation` follows its written procedure. */
export type HolderKind = 'paper' | 'person' | 'organisation'
export type Holder = Readonly<{ name: string; kind: HolderKind }>
/** `threshold` of the holders together speak for the group. */
export type Group = Readonly<{ name: string; threshold: number; holders: readonly Holder[] }>
export type Route = Readonly<{
  name: string
  /** How many of the groups are needed. */
  groupThreshold: number
  groups: readonly Group[]
  /** Asked for besides; never written on any sheet. */
  passphrase: boolean
}>
export type Plan = Readonly<{ routes: readonly Route[] }>

/** Each costs 1.2 KB in the owner policy. */
export const MOST_ROUTES = 5
const MOST_NAME = 64

const paper = (name: string): Group => ({ name, threshold: 1, holders: [{ name, kind: 'paper' }] })
const organisation = (name: string): Group => ({ name, threshold: 1, holders: [{ name, kind: 'organisation' }] })

/**
 * For people who do not want to choose: two of paper, friends and organisation, where a majority of the friends speaks
 * for them. Without an organisation the paper alone is a second way back, because two of two would lose with either.
 */
export function defaultPlan(friends: readonly string[], trustee: string | null = null): Plan {
  const sheet = paper('paper kit')
  const alone: Route = { name: 'the paper alone', groupThreshold: 1, groups: [sheet], passphrase: false }
  if (friends.length < 2) return checked({ routes: [alone] })
  const holders = friends.map(name => ({ name, kind: 'person' as const }))
  const majority: Group = { name: 'friends', threshold: Math.max(2, Math.floor(friends.length / 2) + 1), holders }
  if (trustee === null) {
    const together: Route = { name: 'friends', groupThreshold: 1, groups: [majority], passphrase: false }
    return checked({ routes: [alone, together] })
  }
  const groups = [sheet, majority, organisation(trustee)]
  return checked({ routes: [{ name: 'two of three', groupThreshold: 2, groups, passphrase: false }] })
}

const checked = (plan: Plan): Plan => {
  checkRecoveryPlan(plan)
  return plan
}

const refuse = (detail: string): never => {
  throw new Malformed(detail, 'data')
}

/** Throws Malformed, which says in plain words why nobody should rely on this plan. */
export function checkRecoveryPlan({ routes }: Plan): void {
  if (routes.length === 0) refuse('a plan without a way back recovers nothing')
  if (routes.length > MOST_ROUTES) refuse(`a plan has at most ${MOST_ROUTES} ways back, got ${routes.length}`)
  const names = new Set<string>()
  for (const route of routes) {
    if (names.has(route.name)) refuse(`two ways back are called "${route.name}"`)
    names.add(route.name)
    checkRoute(route)
  }
}

function checkRoute(route: Route): void {
  const { name, groupThreshold, groups } = route
  const where = `"${name}"`
  if (!isName(name)) refuse(`the name of a way back has 1 to ${MOST_NAME} characters`)
  for (const group of groups) {
    const { threshold, holders } = group
    if (!isName(group.name)) refuse(`${where}: the name of a group has 1 to ${MOST_NAME} characters`)
    if (threshold > holders.length) {
      refuse(`${where}: ${threshold} of ${holders.length} in "${group.name}" can never come together`)
    }
    if (threshold === 1 && holders.length > 1) {
      refuse(
        `${where}: where any one of "${group.name}" suffices, make a group of each, so that it is plain who can act alone`,
      )
    }
  }
  if (groupThreshold > groups.length)
    refuse(`${where}: ${groupThreshold} of ${groups.length} groups can never come together`)
  checkPlan({ groupThreshold, groups: groups.map(({ threshold, holders }) => ({ threshold, count: holders.length })) })
  checkHolders(where, groups)
  checkNotTrivial(where, route)
}

const isName = (name: string): boolean => name.trim() !== '' && name.length <= MOST_NAME

function checkHolders(where: string, groups: readonly Group[]): void {
  const seen = new Set<string>()
  for (const { name } of groups.flatMap(({ holders }) => holders)) {
    if (!isName(name)) refuse(`${where}: the name of a holder has 1 to ${MOST_NAME} characters`)
    if (seen.has(name)) refuse(`${where}: ${name} would hold two shares, and count twice`)
    seen.add(name)
  }
}

/** Who could act without anybody else: every smallest set of holders must be more than one, or the owner's own paper. */
function checkNotTrivial(where: string, route: Route): void {
  if (canRecover(route, holder => holder.kind === 'organisation')) {
    refuse(`${where}: the organisation could do it alone; put it into a group of which more are needed`)
  }
  if (route.passphrase) return
  for (const { name, kind } of holdersOf(route)) {
    if (kind === 'person' && canRecover(route, holder => holder.name === name)) {
      refuse(`${where}: ${name} could do it alone; ask for more, or for a passphrase besides`)
    }
  }
}

export const holdersOf = (route: Route): Holder[] => route.groups.flatMap(({ holders }) => [...holders])

/** Whether those of whom this holds suffice. */
export function canRecover({ groupThreshold, groups }: Route, isThere: (holder: Holder) => boolean): boolean {
  const complete = groups.filter(({ threshold, holders }) => holders.filter(isThere).length >= threshold)
  return complete.length >= groupThreshold
}

const numbers = ['no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten']
const word = (count: number): string => numbers[count] ?? String(count)
const listed = (names: readonly string[], last: string): string =>
  names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} ${last} ${names.at(-1)}`

function describeGroup({ name, threshold, holders }: Group): string {
  const names = holders.map(holder => holder.name)
  if (holders.length === 1) return names[0] as string
  if (threshold === holders.length) return listed(names, 'and')
  return `any ${word(threshold)} of ${name} (${listed(names, 'or')})`
}

function describeRoute({ groupThreshold, groups, passphrase }: Route): string {
  const parts = groups.map(describeGroup)
  const who =
    groups.length === 1
      ? (parts[0] as string)
      : groupThreshold === groups.length
        ? parts.join(' together with ')
        : groupThreshold === 1
          ? parts.join('; or ')
          : `any ${word(groupThreshold)} of these: ${parts.join('; ')}`
  return `${who}${passphrase ? ', and your passphrase' : ''}`
}

/** One sentence for each way back: "any two of friends (Ann, Ben or Cem); and your passphrase". */
export const describePlan = ({ routes }: Plan): string[] => routes.map(describeRoute)

/** What the loss of some means, way by way. */
export type Simulated = Readonly<{ route: string; works: boolean; spare: number }>

/**
 * Which ways back remain when these holders are lost, and how many more of those left may be lost before a way is gone
 * (`spare`: -1 where it is gone already).
 */
export function simulateLoss({ routes }: Plan, lost: ReadonlySet<string>): Simulated[] {
  return routes.map(route => {
    const left = holdersOf(route).filter(({ name }) => !lost.has(name))
    const works = canRecover(route, ({ name }) => !lost.has(name))
    return { route: route.name, works, spare: works ? spareOf(route, left) : -1 }
  })
}

/** The most that may be lost whoever they are: an adversary takes groups apart where that is cheapest. */
function spareOf({ groupThreshold, groups }: Route, left: readonly Holder[]): number {
  const names = new Set(left.map(({ name }) => name))
  const costs = groups
    .map(({ threshold, holders }) => holders.filter(({ name }) => names.has(name)).length - threshold + 1)
    .filter(cost => cost > 0)
    .toSorted((a, b) => a - b)
  const groupsToBreak = costs.length - groupThreshold + 1
  return costs.slice(0, groupsToBreak).reduce((sum, cost) => sum + cost, 0) - 1
}
