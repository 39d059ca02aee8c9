// Intel's algorithm by itself: every combination of statuses, which components are read, and what is told.
import test from 'ava'
import fc from 'fast-check'
import { fromHex } from '../../../attestation/bytes.ts'
import { goodEnclave, goodPlatform, goodTd } from '../../../attestation/silicon/intel.ts'
import { type LevelStatus, levelStatuses, type QeIdentity, type TcbInfo } from '../../../attestation/tdx/collateral.ts'
import { evaluateTcb, type TcbStatus } from '../../../attestation/tdx/tcb.ts'

const none = new Uint8Array(48)
const {
  teeTcbSvn2: _,
  mrServiceTd: __,
  ...report
} = goodTd({ mrTd: none, rtmr1: none, rtmr2: none, mrConfigId: none }, new Uint8Array(64))
const qe = await goodEnclave(new Uint8Array(64), new Uint8Array())
const parts = ['UpToDate', 'OutOfDate', 'Revoked'] as const
type Part = (typeof parts)[number] | 'NotSupported'

const DAY = 86400
const named = (svn: number) => ({ svn, category: null, type: null })
const sixteen = (svns: ArrayLike<number>) => Array.from(svns, named)
const zeros = new Uint8Array(16)
/** One level that every platform reaches, unless it is to be below it. */
const platformLevel = (status: LevelStatus | 'NotSupported', advisory: string): TcbInfo['tcbLevels'][number] => ({
  tcb: {
    sgxtcbcomponents: sixteen(zeros),
    pcesvn: status === 'NotSupported' ? 0xffff : 0,
    tdxtcbcomponents: sixteen(zeros),
  },
  tcbDate: 3 * DAY,
  tcbStatus: status === 'NotSupported' ? 'UpToDate' : status,
  advisoryIDs: [advisory],
})
const isvLevel = (status: Part, day: number, advisory: string): QeIdentity['tcbLevels'][number] => ({
  tcb: { isvsvn: status === 'NotSupported' ? 0xffff : 0 },
  tcbDate: day * DAY,
  tcbStatus: status === 'NotSupported' ? 'UpToDate' : status,
  advisoryIDs: [advisory],
})
const module = { mrsigner: none, attributes: new Uint8Array(8), attributesMask: new Uint8Array(8).fill(0xff) }
const common = { version: 3, issueDate: 0, nextUpdate: 0, tcbEvaluationDataNumber: 1 }
const infoOf = (levels: TcbInfo['tcbLevels'], modules: TcbInfo['tdxModuleIdentities']): TcbInfo => ({
  ...common,
  id: 'TDX',
  fmspc: new Uint8Array(6),
  pceId: new Uint8Array(2),
  tcbType: 0,
  tdxModule: module,
  tcbLevels: levels,
  tdxModuleIdentities: modules,
})
const moduleOf = (major: number, ...tcbLevels: QeIdentity['tcbLevels']) => ({
  ...module,
  id: `TDX_0${major}`,
  tcbLevels,
})
const identityOf = (...tcbLevels: QeIdentity['tcbLevels']): QeIdentity => ({
  ...common,
  id: 'TD_QE',
  miscselect: new Uint8Array(4),
  miscselectMask: new Uint8Array(4),
  attributes: new Uint8Array(16),
  attributesMask: new Uint8Array(16),
  mrsigner: new Uint8Array(32),
  isvprodid: 2,
  tcbLevels,
})
const svn = (...bytes: number[]) => Uint8Array.from({ length: 16 }, (_, i) => bytes[i] ?? 0)

function evaluate(platform: LevelStatus | 'NotSupported', ofModule: Part, enclave: Part, current: Part | null = null) {
  const modules = [moduleOf(1, isvLevel(ofModule, 2, 'B')), moduleOf(2, isvLevel(current ?? 'UpToDate', 1, 'D'))]
  return evaluateTcb({
    info: infoOf([platformLevel(platform, 'A')], modules),
    identity: identityOf(isvLevel(enclave, 4, 'C')),
    platform: goodPlatform,
    qe,
    td: {
      ...report,
      teeTcbSvn: svn(0, 1),
      current: current && { teeTcbSvn: svn(0, 2), mrServiceTd: none },
    },
  })
}

/** As Intel's table has it: rows the platform's status, columns the worst of module and quoting enclave. */
const converged: Record<LevelStatus, Record<(typeof parts)[number], TcbStatus>> = {
  UpToDate: { UpToDate: 'UpToDate', OutOfDate: 'OutOfDate', Revoked: 'Revoked' },
  SWHardeningNeeded: { UpToDate: 'SWHardeningNeeded', OutOfDate: 'OutOfDate', Revoked: 'Revoked' },
  ConfigurationNeeded: {
    UpToDate: 'ConfigurationNeeded',
    OutOfDate: 'OutOfDateConfigurationNeeded',
    Revoked: 'Revoked',
  },
  ConfigurationAndSWHardeningNeeded: {
    UpToDate: 'ConfigurationAndSWHardeningNeeded',
    OutOfDate: 'OutOfDateConfigurationNeeded',
    Revoked: 'Revoked',
  },
  OutOfDate: { UpToDate: 'OutOfDate', OutOfDate: 'OutOfDate', Revoked: 'Revoked' },
  OutOfDateConfigurationNeeded: {
    UpToDate: 'OutOfDateConfigurationNeeded',
    OutOfDate: 'OutOfDateConfigurationNeeded',
    Revoked: 'Revoked',
  },
  Revoked: { UpToDate: 'Revoked', OutOfDate: 'Revoked', Revoked: 'Revoked' },
}

test('module and quoting enclave make of the platform what Intel says', t => {
  for (const platform of levelStatuses) {
    for (const [i, ofModule] of parts.entries()) {
      for (const [j, enclave] of parts.entries()) {
        const worst = parts[Math.max(i, j)] as (typeof parts)[number]
        const { status } = evaluate(platform, ofModule, enclave)
        t.is(status, converged[platform][worst], `${platform}, ${ofModule}, ${enclave}`)
      }
    }
    t.is(evaluate(platform, 'NotSupported', 'Revoked').status, 'NotSupported')
    t.is(evaluate(platform, 'UpToDate', 'NotSupported').status, 'NotSupported')
  }
  t.is(evaluate('NotSupported', 'Revoked', 'OutOfDate').status, 'NotSupported')
})

test('a module updated under the running TD asks for a restart', t => {
  const relaunch = (platform: LevelStatus, launch: Part, now: Part) =>
    evaluate(platform, launch, 'UpToDate', now).status
  t.is(relaunch('UpToDate', 'OutOfDate', 'UpToDate'), 'TdRelaunchAdvised')
  t.is(relaunch('SWHardeningNeeded', 'OutOfDate', 'UpToDate'), 'TdRelaunchAdvised')
  t.is(relaunch('ConfigurationNeeded', 'OutOfDate', 'UpToDate'), 'TdRelaunchAdvisedConfigurationNeeded')
  t.is(relaunch('ConfigurationAndSWHardeningNeeded', 'OutOfDate', 'UpToDate'), 'TdRelaunchAdvisedConfigurationNeeded')
  t.is(relaunch('UpToDate', 'OutOfDate', 'OutOfDate'), 'OutOfDate')
  t.is(relaunch('UpToDate', 'OutOfDate', 'Revoked'), 'OutOfDate')
  t.is(relaunch('OutOfDate', 'UpToDate', 'UpToDate'), 'OutOfDate')
  t.is(relaunch('UpToDate', 'Revoked', 'UpToDate'), 'Revoked')
  t.is(relaunch('UpToDate', 'UpToDate', 'OutOfDate'), 'UpToDate')
  t.is(relaunch('UpToDate', 'UpToDate', 'NotSupported'), 'NotSupported')
  t.is(relaunch('UpToDate', 'OutOfDate', 'NotSupported'), 'NotSupported')
  t.deepEqual(evaluate('UpToDate', 'OutOfDate', 'UpToDate', 'UpToDate').current?.status, 'UpToDate')
  t.is(evaluate('UpToDate', 'OutOfDate', 'UpToDate').current, null)
})

test('advisories are those of all parts, the day is the earliest', t => {
  const standing = evaluate('OutOfDate', 'OutOfDate', 'OutOfDate')
  t.deepEqual(standing.advisories, ['A', 'B', 'C'])
  t.is(standing.tcbDate, 2 * DAY)
  t.is(evaluate('UpToDate', 'NotSupported', 'UpToDate').tcbDate, null)
})

type Model = Readonly<{ sgx: number[]; pce: number; tdx: number[] }>
const components = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 16, maxLength: 16 })
const model: fc.Arbitrary<Model> = fc.record({ sgx: components, pce: fc.integer({ min: 0, max: 3 }), tdx: components })

test('the first level that nothing falls short of is the one, with components from index 2 for modules with versions', t => {
  const property = fc.property(model, fc.array(model, { minLength: 1, maxLength: 6 }), (found, levels) => {
    const info = infoOf(
      levels.map(({ sgx, pce, tdx }) => ({
        ...platformLevel('UpToDate', 'A'),
        tcb: { sgxtcbcomponents: sixteen(sgx), pcesvn: pce, tdxtcbcomponents: sixteen(tdx) },
      })),
      [1, 2, 3].map(major => moduleOf(major, isvLevel('UpToDate', 1, 'B'))),
    )
    const standing = evaluateTcb({
      info,
      identity: identityOf(isvLevel('UpToDate', 1, 'C')),
      platform: { ...goodPlatform, components: Uint8Array.from(found.sgx), pceSvn: found.pce },
      qe,
      td: { ...report, teeTcbSvn: Uint8Array.from(found.tdx), current: null },
    })
    const reached = levels.findIndex(
      ({ sgx, pce, tdx }) =>
        sgx.every((needed, i) => (found.sgx[i] as number) >= needed) &&
        found.pce >= pce &&
        tdx.every((needed, i) => ((found.tdx[1] as number) > 0 && i < 2) || (found.tdx[i] as number) >= needed),
    )
    const { status, levelsBehind, behind } = standing.platform
    t.is(status, reached < 0 ? 'NotSupported' : 'UpToDate')
    t.is(levelsBehind, reached < 0 ? levels.length : reached)
    t.is(behind.length === 0, reached === 0)
    t.is(standing.module === null, found.tdx[1] === 0)
  })
  fc.assert(property, { numRuns: 300 })
})

test('what is behind says what to update', t => {
  const newest = { ...goodPlatform, components: fromHex('05040202040100050000000000000000') as Uint8Array }
  const info = infoOf(
    [
      {
        ...platformLevel('UpToDate', 'A'),
        tcb: {
          sgxtcbcomponents: [...newest.components].map((value, i) => ({
            svn: value,
            category: i === 0 ? 'BIOS' : null,
            type: i === 0 ? 'Early Microcode Update' : null,
          })),
          pcesvn: 14,
          tdxtcbcomponents: sixteen([9, 9, 4, ...zeros.slice(3)]),
        },
      },
    ],
    [moduleOf(1, { ...isvLevel('UpToDate', 1, 'B'), tcb: { isvsvn: 7 } })],
  )
  const {
    platform,
    module: ofModule,
    quotingEnclave,
  } = evaluateTcb({
    info,
    identity: identityOf({ ...isvLevel('UpToDate', 1, 'C'), tcb: { isvsvn: 6 } }),
    platform: goodPlatform,
    qe,
    td: { ...report, teeTcbSvn: svn(5, 1, 3), current: null },
  })
  t.deepEqual(platform.behind, [
    { component: 'SGX component 1 (Early Microcode Update, BIOS)', found: 4, newest: 5 },
    { component: 'PCE', found: 13, newest: 14 },
    { component: 'TDX component 3', found: 3, newest: 4 },
  ])
  t.deepEqual(ofModule?.behind, [{ component: 'TDX module 1', found: 5, newest: 7 }])
  t.deepEqual(quotingEnclave.behind, [{ component: 'quoting enclave', found: 4, newest: 6 }])
})
