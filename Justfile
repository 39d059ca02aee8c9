# The npm scripts are the truth; these recipes call them.

[private]
default:
    @"{{just_executable()}}" --justfile "{{justfile()}}" --list

# start a pod on this machine, on simulated silicon
start *args:
    npm start --silent -- {{args}}

# every check and all tests; with arguments, AVA alone
test *args:
    npm test --silent -- {{args}}

# the command line
pod *args:
    npm run pod --silent -- {{args}}

# measure against the baselines
bench *args:
    npm run bench --silent -- {{args}}

# run the attacks against a pod
attacks *args:
    npm run attacks --silent -- {{args}}

# what the TPM of this machine says of itself: just tpm --tcti swtpm:path=/run/swtpm
tpm *args:
    npm run tpm --silent -- {{args}}

# search the session's state machines for attacks
explore *args:
    npm run explore --silent -- {{args}}

# run a folder of evidence cases: just conformance DIR
conformance *args:
    npm run conformance --silent -- {{args}}

# generated and mutated inputs through the verdict and every parser: just fuzz --runs 10000
fuzz *args:
    npm run fuzz --silent -- {{args}}

# checks taken out of the verifier, one at a time: which of them no test misses. Long; just mutants --minutes 5 attestation/rules.ts
mutants *args:
    npm run mutants --silent -- {{args}}

# build the pod's image into vm-image/out
image *args:
    npm run image --silent -- {{args}}

# build the image twice under other circumstances, and compare
reproduce:
    npm run image:reproduce --silent

# start the image in a virtual machine on this computer
vm *args:
    npm run vm --silent -- {{args}}

# the image in virtual machines: its life, its memory, its containers, a hostile host
test-vm *args:
    npm run test:vm --silent -- {{args}}

# make the lock of the image's inputs anew, and show what changes
relock:
    npm run image:relock --silent

# bundle the roles; --package also emits dist/
build *args:
    npm run build --silent -- {{args}}

lint:
    npm run lint --silent

format:
    npm run format --silent

typecheck:
    npm run typecheck --silent
