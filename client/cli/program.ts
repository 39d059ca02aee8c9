/** The `pod` command line: names, options, help. What the commands do stands in `commands.ts`. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { Malformed } from '../../attestation/errors.ts'
import type { Evaluation } from '../../attestation/vendors.ts'
import packageJson from '../../package.json' with { type: 'json' }
import * as backups from './backup.ts'
import { captureEvidence, type EvidenceOptions, fetchCollateral, type FetchOptions } from './collateral.ts'
import * as commands from './commands.ts'
import { Context, type Globals } from './context.ts'
import { fail } from './failure.ts'
import * as grantCommands from './grants.ts'
import { inspect, type InspectOptions } from './inspect.ts'
import { showSnp, showTdx, showUki, type SnpOptions, type TdxOptions, type UkiOptions } from './measure.ts'
import { machinePolicy } from './machine-policy.ts'
import * as memoCommands from './memo.ts'
import { policyText } from './policies.ts'
import * as recoveries from './recovery.ts'
import { Terminal } from './terminal.ts'

const EXIT_CODES = `
Exit codes: 0 done, 10 refused (stop and look), 20 not supported (upgrade), 30 bad input (fix it),
40 not available (try again), 1 a mistake in this program.`

const example = (...lines: readonly string[]) => `\nExample:\n${lines.map(line => `  $ ${line}`).join('\n')}`

const whole = (min: number) => (text: string) => {
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= min) return value
  throw new InvalidArgumentError(`Expected a whole number from ${min} on.`)
}
function evaluationOf(text: string): Evaluation {
  return text === 'standard' || text === 'early' ? text : whole(1)(text)
}
/** Options of both commands that ask vendors. */
const asksVendors = (command: Command): Command =>
  command
    .option('--via <url>', 'ask a pod whose edge relays the vendors, instead of the vendors themselves')
    .option(
      '--evaluation <which>',
      "Intel's evaluation: standard (in force), early (newest published), or a number",
      evaluationOf,
      'standard',
    )
    .option('--policy <name>', "whose roots count, and Intel's lowest evaluation: as for pod inspect")

const gather = (value: string, before: readonly string[] = []) => [...before, value]

/** The first one replaces the default. */
function gatherWhole(text: string, before: readonly number[]): number[] {
  const value = whole(1)(text)
  return before === ONE ? [value] : [...before, value]
}
const ONE: readonly number[] = [1]

const corim = () => new Option('--corim <file>', 'write the reference values to a file as a CoRIM, too')

const collection = (preset: string) => new Option('-c, --collection <name>', 'name of the collection').default(preset)

async function showPolicy({ terminal, primitives }: Context, name: string, from?: readonly string[]): Promise<void> {
  const text = from === undefined ? policyText(name) : await machinePolicy(primitives, name, from)
  terminal.show(JSON.parse(text), [text])
}

type Run = (work: (context: Context) => Promise<number | void>) => Promise<void>

function build(run: Run, start: commands.StartLocalPod): Command {
  const program = new Command('pod')
    .description('Your private server: checked before it gets a key, sealed when it has none.')
    .version(packageJson.version, '-V, --version')
    .option('--home <dir>', "the owner's state folder (default: $POD_HOME, else the XDG state folder)")
    .option('--url <url>', 'address of the pod (default: the one last used)')
    .option('--json', 'print one JSON document')
    .option('--passphrase-file <file>', 'read the passphrase from a file, - for standard input')
    .option('--device <name>', "act with a device's certificate instead of the root key")
    .configureHelp({ showGlobalOptions: true })
    .addHelpText(
      'after',
      `${example('pod init', 'pod up', 'pod unlock', 'pod save "the spare key is under the third pot"', 'pod list')}\n${EXIT_CODES}`,
    )

  program
    .command('init')
    .description('make an owner: root secret, data root, launch config')
    .option('--no-passphrase', 'keep the keys without a passphrase')
    .option(
      '--release-key <hex>',
      'public key that may sign reference values (repeat it); default: a key of this machine',
      gather,
    )
    .option('--threshold <n>', 'how many of them must have signed', whole(1), 1)
    .option('--min-manifest <n>', 'lowest manifest version to accept', whole(0), 1)
    .option('--manifest <file>', 'signed reference values to start with')
    .addHelpText('after', example('pod init', 'pod init --no-passphrase --home ./state'))
    .action((options: commands.InitOptions) => run(context => commands.init(context, options)))

  program
    .command('up')
    .description(
      'start a local pod with simulated silicon and keep it up until Ctrl-C; makes an owner where there is none',
    )
    .argument('[options...]', 'options of the starter, such as --once')
    .allowUnknownOption()
    .addHelpText('after', example('pod up', 'pod up --once'))
    .action((args: string[]) => run(context => commands.up(context, args, start)))

  program
    .command('order')
    .description('write what a hoster needs for this pod: the launch config, and a route that the root key signs')
    .argument('<folder>')
    .option('--days <n>', 'how long the route holds', whole(1), 365)
    .addHelpText('after', example('pod order ./for-my-hoster', 'pod order ./for-my-hoster --days 30'))
    .action((folder: string, options: { days: number }) => run(context => commands.order(context, folder, options)))

  program
    .command('host')
    .description('host many pods on this machine: add, list, up, down, remove, describe')
    .argument('[args...]', 'a verb and its options; pod host --help shows them')
    .allowUnknownOption()
    .helpOption(false)
    .addHelpText('after', example('pod host add ./from-ada', 'pod host up', 'pod host list'))
    .action((args: string[]) => run(context => commands.host(context, args)))

  program
    .command('status')
    .description('verify the pod and show its state, leases and counters')
    .addHelpText('after', example('pod status', 'pod status --json'))
    .action(() => run(commands.showStatus))

  program
    .command('inspect')
    .description('show what a pod proves of itself, or what evidence in files does, and the verdict; releases nothing')
    .argument(
      '[url-or-files...]',
      'a pod (default: the one last used); or files of one machine: bundle, report, quote, event log, ...',
    )
    .option(
      '--policy <name>',
      "a policy file, or bare-metal, azure, google, google-vtpm, aws, simulation, own-machine (default: the owner's)",
    )
    .option(
      '--reference-values <file>',
      'what may have been launched: a CoRIM, or the JSON of pod measure (replaces the rule of the policy)',
    )
    .option('--collateral <file>', "the vendor's certificates, lists, TCB info: PEM, DER, JSON (repeat it)", gather)
    .option('--at <time>', 'judge as of this time, such as 2026-01-31T12:00:00Z (default: now)')
    .option('--nonce <hex>', 'the 64 bytes of report data expected (default: its own, which proves no freshness)')
    .option('--ear', 'print the verdict as an EAT attestation result (AR4SI trustworthiness vector), and nothing else')
    .option(
      '--ear-key <file>',
      'sign it, as a JWT: a private key in PEM, Ed25519 or P-256 (default: marked as unsigned)',
    )
    .option('--ear-cbor <file>', 'write it to a file as CBOR, too: a claims set, or with --ear-key a CWT')
    .addHelpText(
      'after',
      example(
        'pod inspect',
        'pod inspect http://127.0.0.1:8080',
        'pod inspect report.bin --collateral vcek.der --collateral ask_ark.pem --collateral crl.der',
        'pod inspect quote.bin --collateral intel.json --policy bare-metal --at 2026-01-31 --json',
        'pod inspect evidence.cbor --at 2026-01-31 --reference-values release.corim',
        'pod inspect evidence.cbor --ear --ear-key verifier.pem > result.jwt',
      ),
    )
    .action((targets: string[], options: InspectOptions) => run(context => inspect(context, targets, options)))

  asksVendors(
    program
      .command('evidence')
      .description("capture a running pod's evidence with its vendor's collateral in one file that verifies offline")
      .argument('[url]', 'the pod (default: the one last used)')
      .requiredOption('-o, --output <file>', 'the bundle to write'),
  )
    .addHelpText('after', example('pod evidence -o today.bundle', 'pod inspect today.bundle --at 2031-01-31 --json'))
    .action((url: string | undefined, options: EvidenceOptions) =>
      run(context => captureEvidence(context, url, options)),
    )

  const collateral = program
    .command('collateral')
    .description("what a machine's vendor publishes about it")
    .addHelpText('after', example('pod collateral fetch report.bin'))
  asksVendors(
    collateral
      .command('fetch')
      .description('complete evidence from AMD KDS or Intel PCS; what is at hand or cached is not asked for again')
      .argument('<files...>', 'files of one machine, as for pod inspect: bundle, report, quote, certificates, ...')
      .option('-o, --output <file>', 'the bundle to write (default: the first file with .bundle behind its name)'),
  )
    .addHelpText(
      'after',
      `${example(
        'pod collateral fetch report.bin -o report.bundle',
        'pod collateral fetch quote.bin --evaluation early --json',
        'pod collateral fetch old.bundle --via https://pod.example',
      )}\n${EXIT_CODES}`,
    )
    .action((files: string[], options: FetchOptions) => run(context => fetchCollateral(context, files, options)))

  program
    .command('policy')
    .description('print a preset, to start a policy file from, or the JSON schema of such files')
    .argument('<name>', 'bare-metal, azure, google, google-vtpm, aws, own-machine, or schema')
    .option(
      '--from <files...>',
      'own-machine: approve the key and the registers that its TPM shows in these files; vouch for the machine first',
    )
    .addHelpText(
      'after',
      example(
        'pod policy azure > mine.json',
        'pod inspect hcl.bin quote.cbor --policy mine.json',
        'pod policy own-machine --from quote.msg quote.sig ak.pub binary_bios_measurements > mine.json',
      ),
    )
    .action((name: string, { from }: { from?: string[] }) => run(context => showPolicy(context, name, from)))

  const measure = program
    .command('measure')
    .description('compute what a machine will be measured as, from the files that it starts')
    .addHelpText('after', example('pod measure snp --firmware OVMF.fd --kernel vmlinuz', 'pod measure uki pod.efi'))
  measure
    .command('snp')
    .description('launch digest of an AMD SEV-SNP guest')
    .requiredOption('--firmware <file>', 'OVMF, as the hypervisor loads it')
    .option('--kernel <file>', 'kernel of a direct boot')
    .option('--initrd <file>', 'its initial RAM disk')
    .option('--cmdline <text>', 'its command line')
    .option('--vcpus <n>', 'number of processors (repeat it: one digest each)', gatherWhole, ONE)
    .option('--vcpu-type <name>', 'processor as QEMU calls it, or its CPUID signature as 0x... (repeat it)', gather)
    .option('--hypervisor <name>', 'qemu, ec2 or gce', 'qemu')
    .option('--guest-features <mask>', 'SEV_FEATURES of the guest', '0x1')
    .addOption(corim())
    .addHelpText(
      'after',
      example(
        'pod measure snp --firmware OVMF.fd --kernel vmlinuz --vcpus 4 --vcpu-type EPYC-v4 --json',
        'pod measure snp --firmware OVMF.fd --kernel vmlinuz --corim release.corim',
      ),
    )
    .action((options: Omit<SnpOptions, 'vcpuType'> & { vcpuType?: string[] }) =>
      run(context => showSnp(context, { vcpuType: ['EPYC-v4'], ...options })),
    )
  measure
    .command('tdx')
    .description('MRTD, RTMR1 and RTMR2 of an Intel TD that boots a kernel directly')
    .requiredOption('--firmware <file>', 'TDVF, as the hypervisor loads it')
    .requiredOption('--kernel <file>', 'kernel')
    .option('--initrd <file>', 'its initial RAM disk')
    .option('--cmdline <text>', 'its command line as it arrives (QEMU appends " initrd=initrd")')
    .addOption(corim())
    .addHelpText(
      'after',
      example(
        'pod measure tdx --firmware OVMF.fd --kernel vmlinuz --initrd initrd.img --json',
        'pod measure tdx --firmware OVMF.fd --kernel vmlinuz --corim release.corim',
      ),
    )
    .action((options: TdxOptions) => run(context => showTdx(context, options)))
  measure
    .command('uki')
    .description('PCR 4, 9 and 11 of a unified kernel image, before phases of the running system')
    .argument('<image>')
    .option('--bank <name>', 'SHA-256 or SHA-384', 'SHA-256')
    .addOption(corim())
    .addHelpText('after', example('pod measure uki pod.efi --json', 'pod measure uki pod.efi --corim release.corim'))
    .action((image: string, options: UkiOptions) => run(context => showUki(context, image, options)))

  program
    .command('unlock')
    .description('verify the pod, step by step, and release its keys under a lease')
    .option('--approve-platform <pin>', 'approve the chip with this pin')
    .option('--manifest <file>', 'take these signed reference values into force first')
    .option(
      '--policy <name>',
      'from now on judge the pod as its kind of machine demands: bare-metal, azure, google, google-vtpm, aws, own-machine, or a policy file',
    )
    .option('-c, --collection <name>', 'add this collection and open it too (repeat it)', gather)
    .option('--minutes <n>', 'lease of the collections (default 480)', whole(1))
    .addHelpText(
      'after',
      example('pod unlock', 'pod unlock --collection photos --minutes 60', 'pod unlock --policy aws'),
    )
    .action((options: commands.UnlockOptions) => run(context => commands.unlock(context, options)))

  program
    .command('lock')
    .description('take the keys back: the data is ciphertext again')
    .addHelpText('after', example('pod lock'))
    .action(() => run(commands.lockPod))

  program
    .command('save')
    .description('save a memory')
    .argument('<text...>', 'what to remember, - to read it from standard input')
    .option('--handle <name>', 'what to file it under')
    .option('--description <text>', 'what it is about')
    .addOption(collection('memories'))
    .addHelpText('after', example('pod save "Ada prefers tea" --handle people', 'pod save - < notes.txt'))
    .action((words: string[], options: commands.SaveOptions) => run(context => commands.save(context, words, options)))

  program
    .command('list')
    .description('list memories, newest first, or the items of a collection')
    .addOption(collection('memories'))
    .option('--handle <name>', 'only memories filed under this')
    .option('-n, --limit <n>', 'at most so many', whole(1), 20)
    .addOption(new Option('--order <order>', 'oldest or newest first').choices(['asc', 'desc']).default('desc'))
    .addHelpText('after', example('pod list --handle people', 'pod list --collection documents --limit 100 --json'))
    .action((options: commands.ListOptions) => run(context => commands.list(context, options)))

  program
    .command('get')
    .description('show one memory or item')
    .argument('<id>')
    .addOption(collection('memories'))
    .addHelpText('after', example('pod get 0f8e1c2d3b4a59687766554433221100'))
    .action((id: string, options: { collection: string }) => run(context => commands.get(context, id, options)))

  program
    .command('rm')
    .description('delete one memory or item')
    .argument('<id>')
    .addOption(collection('memories'))
    .option('-y, --yes', 'do not ask')
    .addHelpText('after', example('pod rm 0f8e1c2d3b4a59687766554433221100 --yes'))
    .action((id: string, options: { collection: string; yes?: boolean }) =>
      run(context => commands.remove(context, id, options)),
    )

  program
    .command('import')
    .description('import a folder of Markdown and text; what was imported before is updated')
    .argument('<dir>')
    .addOption(collection('documents'))
    .addHelpText('after', example('pod import ~/notes'))
    .action((folder: string, options: { collection: string }) =>
      run(context => commands.importDocuments(context, folder, options)),
    )

  program
    .command('backup')
    .description('copy what changed since the last backup into a folder, sealed; the pod may be in use meanwhile')
    .argument('<dir>', 'a folder of its own for each pod')
    .option('--full', 'everything again')
    .option('--every <interval>', 'again and again until stopped: such as 30m, 6h, 1d')
    .addHelpText('after', example('pod backup /mnt/disk/pod', 'pod backup /mnt/disk/pod --every 6h'))
    .action((folder: string, options: backups.BackupOptions) =>
      run(context => backups.makeBackup(context, folder, options)),
    )

  program
    .command('verify-backup')
    .description('check that backups are complete, in order and unchanged; needs no key and no pod')
    .argument('<dir>')
    .option('--owner <hex>', "the owner's public key (default: of this home)")
    .option('--open', 'open everything with the keys of this home, and rebuild the state that the newest head names')
    .addHelpText('after', example('pod verify-backup /mnt/disk/pod', 'pod verify-backup /mnt/disk/pod --open'))
    .action((folder: string, options: backups.VerifyOptions) =>
      run(context => backups.checkBackup(context, folder, options)),
    )

  program
    .command('restore')
    .description('put a backup into a fresh pod of the same owner: all of it or nothing')
    .argument('<dir>')
    .option('--new-pod', 'first: let this home begin a new pod for the backup to go into')
    .option('--to <number>', 'as of this backup (default: the newest)', whole(1))
    .addHelpText('after', example('pod restore /mnt/disk/pod --new-pod', 'pod up', 'pod restore /mnt/disk/pod'))
    .action((folder: string, options: backups.RestoreOptions) =>
      run(context => backups.restoreBackup(context, folder, options)),
    )

  program
    .command('export')
    .description('everything in open formats, in one file that stock age and tar open')
    .argument('<file>')
    .option('--to <recipient>', 'an age recipient, age1...')
    .option('--with-passphrase [file]', 'under a passphrase: asked for, or read from a file')
    .addHelpText('after', example('pod export pod.tar.age --to age1...', 'age -d -i key.txt pod.tar.age | tar x'))
    .action((path: string, options: backups.ExportOptions) =>
      run(context => backups.exportData(context, path, options)),
    )

  const recovery = program
    .command('recovery')
    .description('get the keys back when every device is gone: by paper, friends, an organisation')
    .addHelpText(
      'after',
      example(
        'pod recovery plan --friend Ann --friend Ben --friend Cem --lose Ann',
        'pod recovery set-up --friend Ann --friend Ben --friend Cem --out shares',
        'pod recovery confirm --image scan-of-the-sheet.jpg',
        'pod recovery kit pod.kit',
        'pod --home new recovery begin pod.kit --lost',
      ),
    )
  const planned = (command: Command) =>
    command
      .option('--friend <name>', 'somebody who would help (repeat it)', gather)
      .option('--trustee <name>', 'an organisation that would')
      .option('--file <file>', 'a plan of your own, as plan --json prints it')
  planned(recovery.command('plan'))
    .description('propose or check a plan: what it means in plain words, and what remains after losses')
    .option('--lose <name>', 'as if this holder were lost (repeat it)', gather)
    .addHelpText(
      'after',
      example('pod recovery plan --friend Ann --friend Ben --friend Cem --trustee Notary --lose Ann'),
    )
    .action((options: recoveries.PlanOptions) => run(context => recoveries.showPlan(context, options)))
  planned(recovery.command('set-up'))
    .description('deal a new version of the plan: a sheet to print, or a sealed file, for each holder')
    .requiredOption('--out <dir>', 'where the files of the holders go')
    .option(
      '--holder <name=file>',
      "a holder's key, as a friend's page gives it: the share is sealed to it (repeat it); others get sheets",
      gather,
    )
    .addOption(new Option('--paper <size>', 'what the sheets are printed on').choices(['a4', 'letter']).default('a4'))
    .option('--kit-at <place>', 'where the kit will be kept, printed on every sheet (default: a line to write it on)')
    .option('--route-passphrase <name=file>', 'passphrase of a way back that asks for one (repeat it)', gather)
    .addHelpText('after', example('pod recovery set-up --friend Ann --friend Ben --friend Cem --out shares'))
    .action((options: recoveries.SetUpOptions) => run(context => recoveries.setUp(context, options)))
  recovery
    .command('friend-page')
    .description('write the page that friends keep their shares in: one file, for any browser, without a network')
    .argument('<file>')
    .addHelpText('after', example('pod recovery friend-page friend.html'))
    .action((path: string) => run(context => recoveries.writeFriendPage(context, path)))
  recovery
    .command('link')
    .description('a share or a request as text to paste, or as a link that opens the page of friends')
    .argument('<file>')
    .option('--page <url>', 'where that page is')
    .addHelpText('after', example('pod recovery link shares/02-Ann.share --page https://pod.example/friend.html'))
    .action((path: string, options: recoveries.LinkOptions) =>
      run(context => recoveries.showLink(context, path, options)),
    )
  recovery
    .command('confirm')
    .description('a holder shows the share, or answers a question about it; a plan counts once all have')
    .option('--image <file>', 'a scan or photo of the printed sheet, PNG or JPEG')
    .option('--words-file <file>', 'the words, or the sheet with them; - for standard input')
    .option('--share-file <file>', 'the code of a sheet, as scanned')
    .option('--ask <name>', 'a question for a holder, answered without telling the share')
    .option('--answer <hex>', 'the answer to it')
    .addHelpText('after', example('pod recovery confirm --image photo.jpg', 'pod recovery confirm --ask Ann'))
    .action((options: recoveries.ConfirmOptions) => run(context => recoveries.confirm(context, options)))
  recovery
    .command('status')
    .description('the plan, its holders, and when each last proved to hold the share')
    .addHelpText('after', example('pod recovery status'))
    .action(() => run(recoveries.showStatus))
  recovery
    .command('kit')
    .description('write the recovery kit anew: what a recovery starts from; it opens nothing by itself')
    .argument('<file>')
    .addHelpText('after', example('pod recovery kit /mnt/disk/pod.kit'))
    .action((path: string) => run(context => recoveries.writeKit(context, path)))
  recovery
    .command('begin')
    .description('begin a recovery on a new device')
    .argument('<kit>')
    .option('--lost', 'the keys are lost: nobody else has them')
    .option('--stolen', 'somebody else may have them')
    .addHelpText('after', example('pod --home new recovery begin pod.kit --lost'))
    .action((path: string, options: recoveries.BeginOptions) =>
      run(context => recoveries.begin(context, path, options)),
    )
  recovery
    .command('progress')
    .description('who has answered, who is missing')
    .addHelpText('after', example('pod --home new recovery progress'))
    .action(() => run(recoveries.showProgress))
  recovery
    .command('request')
    .description('write the request for holders who answer with an app')
    .argument('<file>')
    .addHelpText('after', example('pod --home new recovery request ask-ann.request'))
    .action((path: string) => run(context => recoveries.writeRequest(context, path)))
  recovery
    .command('add')
    .description("add a holder's answer, or a sheet by its picture or its words")
    .argument('[answer]')
    .option('--image <file>', 'a scan or photo of a sheet, PNG or JPEG')
    .option('--words-file <file>', 'the words, or the sheet with them; - for standard input')
    .option('--route <number>', 'which way back the words are of', whole(1), 1)
    .addHelpText(
      'after',
      example('pod --home new recovery add ann.answer', 'pod --home new recovery add --image photo.jpg'),
    )
    .action((answer: string | undefined, options: recoveries.AddOptions) =>
      run(context => recoveries.add(context, answer, options)),
    )
  recovery
    .command('finish')
    .description('the owner again, on this device; every device that was known is revoked')
    .option('--route <number>', 'by this way back (default: the first that is complete)', whole(1))
    .option('--route-passphrase <file>', 'its passphrase')
    .option('--no-passphrase', 'keep the keys here without a passphrase')
    .addHelpText('after', example('pod --home new recovery finish'))
    .action((options: recoveries.FinishOptions) => run(context => recoveries.finish(context, options)))

  const devices = program
    .command('devices')
    .description('list, add and revoke devices')
    .addHelpText('after', example('pod devices', 'pod devices add phone', 'pod devices revoke SERIAL'))
    .action(() => run(commands.devices))
  devices
    .command('add')
    .description('make a device key and its certificate under the root')
    .argument('<name>')
    .option('--days <n>', 'how long it is valid', whole(1), 30)
    .option('--caps <list>', 'what it may do', 'use,release')
    .addHelpText('after', example('pod devices add laptop --days 365 --caps use'))
    .action((name: string, options: { days: number; caps: string }) =>
      run(context => commands.addDevice(context, name, options)),
    )
  devices
    .command('revoke')
    .description("revoke a device's certificate or a grant")
    .argument('<serial>')
    .option('--local', 'only in the policy here; the pod learns it at the next unlock')
    .addHelpText('after', example('pod devices revoke 00112233445566778899aabbccddeeff'))
    .action((serial: string, options: { local?: boolean }) =>
      run(context => commands.revokeDevice(context, serial, options)),
    )

  const grants = program
    .command('grants')
    .description('list, add and revoke grants: keys for programs that reach one collection and not the rest')
    .addHelpText('after', example('pod grants', 'pod grants add memo --collection memo', 'pod grants revoke memo'))
    .action(() => run(grantCommands.list))
  grants
    .command('add')
    .description('make a key and a grant for it under the root; kept in this folder')
    .argument('<name>')
    .requiredOption('-c, --collection <name>', 'what it reaches (repeat it)', gather)
    .option('--verbs <list>', 'what it may do there', 'read,create,update,delete')
    .option('--days <n>', 'how long it is valid', whole(1), 90)
    .addHelpText('after', example('pod grants add backup --collection memories --verbs read --days 30'))
    .action((name: string, options: grantCommands.GrantOptions) =>
      run(context => grantCommands.add(context, name, options)),
    )
  grants
    .command('revoke')
    .description('revoke a grant by its name')
    .argument('<name>')
    .option('--local', 'only in the policy here; the pod learns it at the next unlock')
    .addHelpText('after', example('pod grants revoke memo'))
    .action((name: string, options: { local?: boolean }) =>
      run(context => grantCommands.revoke(context, name, options)),
    )

  const memo = program
    .command('memo')
    .description("serve Memo's API to clients on this machine, and import what they wrote")
    .addHelpText('after', example('pod memo accounts add ada --public-key ada.pem', 'pod memo serve'))
  memo
    .command('serve')
    .description("Memo's HTTP API on the loopback address, until Ctrl-C; each call goes on through a sealed session")
    .option('--port <n>', 'port to listen on', whole(0), 8787)
    .option('--grant <name>', 'the grant to hold', 'memo')
    .addHelpText('after', example('pod grants add memo --collection memo', 'pod unlock', 'pod memo serve --port 8787'))
    .action((options: { port: number; grant: string }) => run(context => memoCommands.serve(context, options)))
  const accounts = memo
    .command('accounts')
    .description('list, add and remove accounts of the local service, each with an API key')
    .addHelpText('after', example('pod memo accounts', 'pod memo accounts add ada --public-key ada.pem'))
    .action(() => run(memoCommands.listAccounts))
  accounts
    .command('add')
    .description('make an account; its API key is shown once')
    .argument('<name>')
    .option('--public-key <file>', 'the key its client signs with: SPKI in PEM, or its modulus in base64')
    .addHelpText('after', example('pod memo accounts add ada --public-key ada.pem'))
    .action((name: string, options: { publicKey?: string }) =>
      run(context => memoCommands.addAccount(context, name, options)),
    )
  accounts
    .command('key')
    .description('register the public key that an account signs with, in place of the one before')
    .argument('<name>')
    .argument('<file>')
    .addHelpText('after', example('pod memo accounts key ada ada.pem'))
    .action((name: string, file: string) => run(context => memoCommands.registerKey(context, name, file)))
  accounts
    .command('rm')
    .description("end an account's API key; its memories stay")
    .argument('<name>')
    .addHelpText('after', example('pod memo accounts rm ada'))
    .action((name: string) => run(context => memoCommands.removeAccount(context, name)))
  memo
    .command('import')
    .description("open Memo packages with their owner's RSA key and keep them as memories")
    .argument(
      '[source]',
      "a Memo service's address, or a file of its answers (default: what this pod keeps for pod memo serve)",
    )
    .requiredOption('--key <file>', 'the RSA private key: PKCS#8 or PKCS#1 in PEM')
    .option('--signer <file>', 'the public key that must have signed (default: the same pair)')
    .option('--api-key-file <file>', "the service's API key")
    .option('--legacy', 'open packages of the oldest form, too')
    .option('--accept-unverified-writers', 'take packages whose signature is not looked at, and mark them so')
    .addOption(collection('memories'))
    .addHelpText(
      'after',
      example('pod memo import --key ada.pem', 'pod memo import answers.json --key ada.pem --legacy'),
    )
    .action((source: string | undefined, options: memoCommands.MemoImportOptions) =>
      run(context => memoCommands.importAccount(context, source, options)),
    )

  program
    .command('log')
    .description('show what happened in the pod, entry by entry')
    .option('--from <n>', 'first entry', whole(0), 0)
    .option('-n, --limit <n>', 'at most so many', whole(1), 100)
    .addHelpText('after', example('pod log --from 10 --json'))
    .action((options: { from: number; limit: number }) => run(context => commands.log(context, options)))

  return program
}

/** Runs one command line and resolves with its exit code. */
export async function runPod(
  args: readonly string[],
  start: commands.StartLocalPod = commands.startLocalPod,
): Promise<number> {
  const terminal = new Terminal(args.includes('--json'))
  let exit = 0
  const program = build(async work => {
    exit = (await work(new Context(terminal, program.opts<Globals>()))) ?? 0
  }, start)
  quiet(program)
  try {
    await program.parseAsync([...args], { from: 'user' })
    return exit
  } catch (error) {
    if (!(error instanceof CommanderError)) return fail(terminal, error)
    if (error.exitCode === 0) return 0 // help, version
    if (error.code === 'commander.help') return fail(terminal, new Malformed('which command?', 'data'))
    return fail(terminal, new Malformed(error.message.replace(/^error: /, ''), 'data'))
  }
}

/** Commander throws instead of exiting, and leaves error messages to us. */
function quiet(command: Command): void {
  command.exitOverride().configureOutput({ outputError: () => {} })
  for (const each of command.commands) quiet(each)
}
