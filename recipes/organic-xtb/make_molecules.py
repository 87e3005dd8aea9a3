"""Writes molecules.smi: python make_molecules.py. The file it writes is the recipe's input; this script only documents its origin.

Three sources: lists written by hand, side groups on small scaffolds, and capped amino acids. Kept is what RDKit understands, has
2 to 24 atoms, is neutral and closed-shell, and has no bond or charge pattern that GFN2-xTB would rearrange at once.
"""

import hashlib
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

RDLogger.DisableLog("rdApp.*")

INORGANIC = "O N F Cl S [H][H] N#N O=C=O O=C=S S=C=S C#N O=S=O FF ClCl FCl OO NN NO NCl OF OCl SS ClN(Cl)Cl FN(F)F N=N O=NO \
O=[N+]([O-])O OS(=O)(=O)O ClC(Cl)=S FC(F)=O O=S(=O)=O FS(F)(=O)=O ClS(Cl)=O SSS NNN OOO N#CC#N NC#N"

ALKANES = "C CC CCC CCCC CC(C)C CCCCC CC(C)CC CC(C)(C)C CCCCCC CC(C)CCC CC(C)C(C)C CCC(C)CC CCC(C)(C)C CCCCCCC C1CC1 C1CCC1 \
C1CCCC1 C1CCCCC1 CC1CC1 CC1CCC1 CC1CCCC1 CC1CCCCC1 CC1(C)CC1 CC1CC1C C1CC1C1CC1 C1CC2CC12 C1C2CC1C2 C1CC2CCC1C2 C1CC2CC2C1 \
C1CC11CC1 C12C3C1C23 C1CCCCCC1 C1CC2CCC2C1 CCC1CC1 CCC1CCC1"

UNSATURATED = "C=C CC=C CCC=C CC=CC CC(C)=C C=C=C C=CC=C CC(C)=CC CC(C)=C(C)C C=CCC=C C=CC=CC=C CCCC=C C1=CC1 C1=CCC1 C1=CCCC1 \
C1=CCCCC1 C1=CCC=CC1 C1=CC=CCC1 C1=CC=CC1 C=C1CC1 C=C1CCC1 C=C1CCCC1 CC1=CCCC1 C=C1C=CC=C1 C1=CCCCCC1 C1=CC=CC=CC1 C1=CC2CCC1C2 C#C CC#C \
CCC#C CC#CC C#CC#C C#CC=C CC#CC=C C#CCC#C CCCC#C C#CC1CC1 CC=C=C C=C=C=C C=CC(C)=C C=CC1CC1 CC(=C)C(C)=C C=C(C)C#C C#CC(C)C \
C/C=C/C C/C=C\\C C/C=C/C=C C/C=C\\C=C F/C=C/F F/C=C\\F Cl/C=C/Cl Cl/C=C\\Cl"

AROMATIC = "c1ccccc1 Cc1ccccc1 Cc1ccccc1C Cc1cccc(C)c1 Cc1ccc(C)cc1 CCc1ccccc1 C=Cc1ccccc1 C#Cc1ccccc1 CC(C)c1ccccc1 c1ccc2ccccc2c1 \
c1ccc2c(c1)CC2 c1ccc2c(c1)CCC2 C1=Cc2ccccc2C1 c1ccc2cccc-2cc1 c1ccc(-c2ccccc2)cc1 Oc1ccccc1O Oc1cccc(O)c1 Oc1ccc(O)cc1 Nc1ccccc1N \
Nc1ccc(N)cc1 Nc1ccc(O)cc1 Nc1ccccc1O COc1ccccc1O COc1ccc(O)cc1 Cc1ccc(O)cc1 Cc1ccc(N)cc1 Oc1ccccc1C=O O=Cc1ccc(O)cc1 \
O=C1C=CC(=O)C=C1 O=C1C=CC(=O)C=C1Cl Fc1ccc(F)cc1 Fc1ccccc1F Fc1cccc(F)c1 Clc1ccc(Cl)cc1 Clc1ccccc1Cl Fc1ccc(Cl)cc1 \
Fc1c(F)c(F)c(F)c(F)c1F N#Cc1ccc(C#N)cc1 O=[N+]([O-])c1ccc(O)cc1 Nc1ccc([N+](=O)[O-])cc1 Oc1ccccc1Cl Nc1ccccc1F \
OC(=O)c1ccccc1O Nc1ccccc1C(N)=O CN(C)c1ccccc1 Cc1cc(C)cc(C)c1 NCCc1ccccc1 OCc1ccccc1 NCc1ccccc1 CSc1ccccc1 O=Cc1ccccc1C=O Sc1ccc(O)cc1"

HETEROAROMATIC = "c1ccncc1 c1ccnnc1 c1cnccn1 c1cncnc1 c1ncncn1 c1nncnn1 c1ccoc1 c1ccsc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]c1 c1cocn1 c1conc1 c1cscn1 c1csnc1 \
c1nc[nH]n1 c1nn[nH]n1 c1nnco1 c1nncs1 c1ncon1 c1ncsn1 c1nonc1 c1nsnc1 Cn1cccc1 Cn1ccnc1 Cn1cccn1 Cc1cnc[nH]1 Cc1cc[nH]n1 Cc1ccon1 Cc1cnoc1 Cc1cscn1 \
Cc1ncc[nH]1 Cc1ncco1 c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2sccc2c1 c1ccc2[nH]cnc2c1 c1ccc2[nH]ncc2c1 c1ccc2ocnc2c1 c1ccc2scnc2c1 c1ccc2ncccc2c1 \
c1ccc2cnccc2c1 c1ccc2nccnc2c1 c1ccc2ncncc2c1 c1cnc2nccnc2n1 c1ncc2nc[nH]c2n1 c1ccn2cccc2c1 c1ccn2ccnc2c1 c1cnn2cccc2c1 c1cc2ccsc2s1 c1cc2cc[nH]c2[nH]1 \
O=c1cc[nH]cc1 O=c1cccc[nH]1 O=c1ccocc1 O=c1cccco1 Oc1ccccn1 Oc1cccnc1 Nc1ccccn1 Nc1cccnc1 Nc1ccncc1 Nc1ncccn1 Nc1ncncn1 Nc1ccncn1 Nc1nc(N)nc(N)n1 \
Cc1ccccn1 Cc1cccnc1 Cc1ccncc1 Cc1cc(C)ncn1 Cc1cnccn1 OC(=O)c1cccnc1 NC(=O)c1cccnc1 N#Cc1ccncc1 O=Cc1ccco1 O=Cc1cccs1 O=Cc1ccc[nH]1 CC(=O)c1ccco1 \
Nc1nccs1 Nc1ncc[nH]1 Nc1nnc[nH]1 Nc1nncs1 Cc1nnc(C)o1 Cc1nnc(C)s1 Fc1ccccn1 Fc1cccnc1 Clc1ccncc1 Clc1ccccn1 Clc1ncccn1 Clc1cccs1 Clc1ccco1 FC(F)(F)c1ccccn1 \
O=[N+]([O-])c1ccco1 O=[N+]([O-])c1cnc[nH]1 Cc1cccs1 Cc1ccsc1 Cc1ccco1 Cc1ccoc1 Cc1ccc(C)o1 Cc1ccc(C)s1 Sc1ccccn1 S=c1cccc[nH]1 COc1ccccn1 COc1ccccc1 [O-][n+]1ccccc1"

NUCLEOBASES = "Nc1ncnc2[nH]cnc12 Nc1nc2[nH]cnc2c(=O)[nH]1 Nc1cc[nH]c(=O)n1 Cc1c[nH]c(=O)[nH]c1=O O=c1cc[nH]c(=O)[nH]1 Cn1ccc(N)nc1=O Cn1ccc(=O)[nH]c1=O \
Cn1cnc2c(N)ncnc21 Cn1cc(C)c(=O)[nH]c1=O O=c1[nH]cnc2[nH]cnc12 O=c1[nH]c(=O)c2[nH]cnc2[nH]1 O=c1[nH]cc(F)c(=O)[nH]1 O=c1[nH]cc(Cl)c(=O)[nH]1 \
Cn1cnc2c1c(=O)[nH]c(=O)[nH]2 O=C1CNC(=O)N1 O=C1CC(=O)NC(=O)N1 O=C1NC(=O)C(=O)N1 O=C1CCC(=O)N1 S=c1cc[nH]c(=O)[nH]1 Nc1nc(=O)nc[nH]1"

SUGARS = "OCC=O OCC(O)C=O OCC(=O)CO OCC(O)CO OCC(O)C(O)CO OCC(O)C(O)C=O OC1COCC1O OC1CCOC1 OCC1CCCO1 OC1CCCO1 OC1CCCCO1 OCC1OCCC1O OC1COC(O)C1O OCC1OC(O)CC1O \
OCC1OCC(O)C1O COC1CCCO1 COC1CCCCO1 OC1CCOCC1 OC1COCCC1O OC1COC(O)C(O)C1O CC1OCC(O)C1O OCC1OCCC(O)C1 OC1COCC(O)C1O O=C1OCC(O)C1O OCC(O)CC=O OC1CC1O OC1CCC1O OC1CCCC1O OC1CCCCC1O"

CARBONYL_AND_NITROGEN = "C=O CC=O CCC=O CCCC=O CC(C)C=O C=CC=O CC=CC=O C#CC=O O=CC=O CC(=O)C=O CC(C)=O CCC(C)=O CCC(=O)CC CC(=O)C(C)=O CC(=O)CC(C)=O CC(=O)C=C C1CC1C=O \
O=C1CC1 O=C1CCC1 O=C1CCCC1 O=C1CCCCC1 O=C1C=CCC1 O=C1C=CCCC1 O=C1CCC(=O)CC1 C=C=O CC=C=O O=C=C=C=O OC=O CC(=O)O CCC(=O)O CCCC(=O)O CC(C)C(=O)O C=CC(=O)O C#CC(=O)O \
OC(=O)C(=O)O OC(=O)CC(=O)O OC(=O)CCC(=O)O OC(=O)/C=C/C(=O)O OC(=O)/C=C\\C(=O)O CC(O)C(=O)O OCC(=O)O CC(=O)C(=O)O O=CC(=O)O CC(=O)CC(=O)O COC=O COC(C)=O CCOC=O CCOC(C)=O \
COC(=O)CC COC(=O)C=C CC(=O)OC=C COC(=O)OC O=C1CCO1 O=C1CCCO1 O=C1CCCCO1 O=C1OCCO1 O=C1C=CCO1 O=C1C=CC(=O)O1 O=C1CCC(=O)O1 CC(=O)OC(C)=O COC(=O)C(=O)OC OO=CC CC(=O)OO \
NC=O CNC=O CN(C)C=O CC(N)=O CNC(C)=O CN(C)C(C)=O CCC(N)=O CNC(=O)CC NC(N)=O CNC(N)=O CNC(=O)NC CN(C)C(N)=O NC(=O)C(N)=O NC(=O)CC(N)=O COC(N)=O CCOC(N)=O CNC(=O)OC \
O=C1CCN1 O=C1CCCN1 O=C1CCCCN1 CN1CCCC1=O O=C1NCCN1 O=C1NCCO1 O=C1C=CC(=O)N1 NC(=O)C=C CC(=O)NC=O ONC=O CC(=O)NO CON NC(=O)NO NNC=O CC(=O)NN CN CCN CCCN CC(C)N CC(C)(C)N CNC CCNC CN(C)C CCNCC \
CCN(C)C NCCN NCCCN CNCCN NCCO OCCNCCO CNCCO CN(C)CCO C=CCN C#CCN C1CN1 CN1CC1 C1CNC1 C1CCNC1 C1CCNCC1 CN1CCCC1 CN1CCCCC1 C1CNCCN1 C1COCCN1 C1CSCCN1 C1CNNC1 NC1CC1 NC1CCC1 NC1CCCC1 \
NC1CCCCC1 C1CN2CCN1CC2 C1CC2CCC1N2 C1=CNC=CC1 C1=NCCC1 C1=NCCN1 C1=NCCO1 C1=NCCS1 CC1=NCCO1 C=N CC=N C=NC CC=NC CC(C)=N CC(C)=NC N=CN NC(=N)N CC(=N)N CNC(=N)N N=CO N=CC=N \
C=NO CC=NO CC(C)=NO CC(C)=NN C=NN CN=NC CCN=NCC CNN CNNC CN(C)N NCC(=N)N N=C=N CN=C=O CN=C=S N=C=O N=C=S CC#N CCC#N CCCC#N CC(C)C#N C=CC#N C#CC#N N#CCC#N N#CCCC#N NCC#N OCC#N CC(O)C#N \
N#CC1CC1 CN(C)C#N N#CC=O COCC#N N#CC(=O)O C[N+](=O)[O-] CC[N+](=O)[O-] CCC[N+](=O)[O-] CC(C)[N+](=O)[O-] C=C[N+](=O)[O-] OCC[N+](=O)[O-] O=[N+]([O-])C[N+](=O)[O-] CO[N+](=O)[O-] CCO[N+](=O)[O-] CON=O CCON=O \
CN=O CN(C)N=O CN(C)[N+](=O)[O-] N[N+](=O)[O-] CN=[N+]=[N-] CCN=[N+]=[N-] C=[N+]=[N-] C[N+]#[C-] CC[N+]#[C-] C[N+](C)(C)[O-]"

OXYGEN = "CO CCO CCCO CC(C)O CCCCO CC(C)CO CCC(C)O CC(C)(C)O OCCO OCCCO CC(O)CO OCC(O)CO C=CCO C#CCO CC=CO OC=C COC CCOC CCOCC COCCO COCCOC COCOC OCO COC=C C=COC=C CC(C)OC C1CO1 CC1CO1 C1COC1 \
C1CCOC1 C1CCOCC1 C1COCCO1 C1OCCO1 C1OCOCO1 C1COCO1 C1=COCC1 C1=COC=CO1 C1CC2OC2C1 C1CCC2OC2C1 OCC1CO1 OC1CC1 OC1CCC1 OC1CCCC1 OC1CCCCC1 OC1CC1C OCC1CC1 COC1CC1 COO CCOO COOC CC(C)OO OC(O)C COC(C)OC OCC#CCO OC1=CCCC1 C1OO1 C1OC=CO1"

SULFUR = "CS CCS CCCS CC(C)S CSC CCSC CCSCC CSSC CSS CSCSC SCCS SCCO SCCN CSCCO C=CSC C=S CC=S CC(C)=S CC(=S)N NC=S CNC=S NC(N)=S CNC(N)=S CC(=O)S CC(=O)SC CSC=O CSC(=S)S CC(=S)C OC=S SC=O CC(O)=S COC=S COC(C)=S C1CS1 CC1CS1 C1CSC1 \
C1CCSC1 C1CCSCC1 C1CSCS1 C1CSCCS1 C1CSCCO1 C1SCCS1 C1SCSCS1 C1CCSS1 C1=CSCC1 C1=CSC=CS1 O=C1CSCN1 CSC#N CCSC#N CSN CSO CSOC CS(C)=O CCS(C)=O CS(=O)CC O=S1CCC1 O=S1CCCC1 C=CS(C)=O NS(C)=O CS(=O)O CS(C)(=O)=O CCS(C)(=O)=O O=S1(=O)CCC1 \
O=S1(=O)CCCC1 O=S1(=O)C=CCC1 C=CS(C)(=O)=O CS(N)(=O)=O CNS(C)(=O)=O CS(=O)(=O)N(C)C CS(=O)(=O)O COS(C)(=O)=O COS(=O)OC COS(=O)(=O)OC NS(N)(=O)=O NS(=O)(=O)O CS(=O)(=O)F CS(=O)(=O)Cl O=S1OCCO1 O=S(=O)(c1ccccc1)C NS(=O)(=O)c1ccccc1 CS(=O)c1ccccc1 \
OCCS(C)(=O)=O SCC(=O)O CSCC(=O)O NC(CS)C(=O)O Sc1ccccc1 SCc1ccccc1 S=C1NCCN1 S=C1SCCS1 O=C1CCCS1 CSSSC CS(=N)(C)=O CN=S=O CN=C=S SC1CC1 SC1CCCC1 SC=C"

HALOGEN = "CF CCF CCCF CC(C)F FCF FC(F)F FC(F)(F)F CC(F)F CC(F)(F)F FCCF FC(F)C(F)F FC(F)(F)C(F)(F)F C=CF C=C(F)F FC=C(F)F FC(F)=C(F)F C#CF FC#CF FCO OCCF OCC(F)F OCC(F)(F)F FCC=O FCC(=O)O FC(F)C(=O)O FC(F)(F)C(=O)O FC(F)(F)C(N)=O NCCF NCC(F)(F)F FCC#N FC(F)(F)C#N \
CC(=O)CF CC(=O)C(F)(F)F CC(=O)F FC=O COC(F)F COC(F)(F)F FCOC CSC(F)(F)F FC1CC1 FC1(F)CC1 FC1CCC1 FC1CCCC1 FC1CCCCC1 FC1CO1 CCl CCCl CCCCl CC(C)Cl CC(C)(C)Cl ClCCl ClC(Cl)Cl ClC(Cl)(Cl)Cl CC(Cl)Cl CC(Cl)(Cl)Cl ClCCCl ClC(Cl)C(Cl)Cl C=CCl C=C(Cl)Cl ClC=C(Cl)Cl \
ClC(Cl)=C(Cl)Cl C#CCl C=CCCl C#CCCl ClCC=CCl OCCCl OCC(Cl)Cl ClCC=O ClC(Cl)C=O ClC(Cl)(Cl)C=O ClCC(=O)O ClC(Cl)C(=O)O CC(=O)CCl CC(=O)Cl NC(=O)CCl NCCCl ClCC#N ClCOC ClC1CC1 ClC1(Cl)CC1 ClC1CCCC1 ClCC1CO1 ClCF FC(F)Cl FC(Cl)Cl FC(F)(F)Cl FCCCl FC(F)=C(F)Cl FC(F)(F)CCl \
COC(=O)Cl CN(C)C(=O)Cl O=C(Cl)C(=O)Cl NC(=O)F ClCSC CSCl CS(=O)Cl C1CC(F)C1F FC(F)CF CC(F)C(C)F CC(Cl)C(C)Cl CC(F)CO CC(Cl)CO FCC(F)CF ClCC(Cl)CCl CN(C)Cl CNCl OC(F)(F)F FC1=CCCC1 ClC1=CCCC1 ClC1CCCCC1"

SCAFFOLDS = "CC CCC C(C)C CC(C)C C=C CC=C C#C CC#C C1CC1 C1CCC1 C1CCCC1 C1CCOC1 C1CCNC1 c1ccccc1 Cc1ccccc1 c1ccncc1 c1cccnc1 c1ccco1 c1cccs1 c1ccc[nH]1 c1ncc[nH]1 c1cnco1 \
CCO CCN CCS CCOC CC(F)F CCCl CCC#N CC(C)O CN1CCCC1 C1COC1 CC(C)=O CC1CO1 C(F)(F)F"
GROUPS = "O N C=O OC NC C(=O)O C(N)=O C#N [N+](=O)[O-] S SC F Cl C(C)=O OC=O NC=O S(C)=O S(C)(=O)=O S(N)(=O)=O C=NC C(=O)OC C(F)(F)F N(C)C NC(N)=O OC(C)=O C=C C#C C=NO"

# Acetyl-X-methylamide for the side chains that leave 24 atoms or fewer, other caps, and free amino acids.
SIDE_CHAINS = "[H] C CO CS CF CCl C#N C=C CC C(C)C C1CC1 CN C=O CC#N C(N)=O C(=O)O CC(N)=O CC(=O)O CCSC c1ccco1 Cc1c[nH]cn1 Cc1ccccc1 C(C)O CCO"
CAPS = "CC(=O)NC({})C(=O)NC O=CNC({})C(=O)NC O=CNC({})C(N)=O NC({})C(=O)O NC({})C(N)=O CC(=O)NC({})C(N)=O O=CNC({})C(=O)O CNC({})C(=O)NC"

ELEMENTS = set("H C N O F S Cl".split())
MOST_ATOMS, KEPT_COMBINATIONS = 24, 200


def accept(smiles: str) -> str | None:
    """Canonical SMILES of a molecule worth keeping, or None."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    full = Chem.AddHs(molecule)
    atoms = full.GetAtoms()
    if not 2 <= full.GetNumAtoms() <= MOST_ATOMS or {atom.GetSymbol() for atom in atoms} - ELEMENTS:
        return None
    if Chem.GetFormalCharge(full) or any(atom.GetNumRadicalElectrons() for atom in atoms):
        return None
    if rdDistGeom.EmbedMolecule(full, randomSeed=1) != 0:
        return None
    return Chem.MolToSmiles(molecule)


def combinations() -> list[str]:
    """Scaffolds with groups, and amino acids: all that are accepted, then a fixed pseudo-random choice of them."""
    attached = [_attach(scaffold, group) for scaffold in SCAFFOLDS.split() for group in GROUPS.split()]
    amino = [cap.format(chain) for cap in CAPS.split() for chain in SIDE_CHAINS.split()]
    found = dict.fromkeys(filter(None, map(accept, attached)))
    chosen = sorted(found, key=lambda smiles: hashlib.sha256(smiles.encode()).digest())[:KEPT_COMBINATIONS]
    peptides = list(dict.fromkeys(filter(None, map(accept, amino))))
    return chosen + peptides


def _attach(scaffold: str, group: str) -> str:
    """The group in brackets behind the scaffold's first atom: both are written so that their first atoms bond."""
    first = 2 if scaffold[1:2].isdigit() else 1
    return f"{scaffold[:first]}({group}){scaffold[first:]}"


def main() -> None:
    """Write molecules.smi beside this script."""
    lists = (INORGANIC, ALKANES, UNSATURATED, AROMATIC, HETEROAROMATIC, NUCLEOBASES, SUGARS, CARBONYL_AND_NITROGEN, OXYGEN, SULFUR, HALOGEN)
    found: dict[str, None] = {}
    for smiles in [smiles for text in lists for smiles in text.split()]:
        if (kept := accept(smiles)) is None:
            print("left out:", smiles)
        else:
            found[kept] = None
    by_hand = len(found)
    found.update(dict.fromkeys(combinations()))
    Path(__file__).with_name("molecules.smi").write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{by_hand} written by hand, {len(found) - by_hand} combined")


if __name__ == "__main__":
    main()
